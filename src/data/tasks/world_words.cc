#include <cstdint>

#include "data/tasks/world_words.h"

namespace fathom::world_words {
namespace {

using sv = std::string_view;

// clang-format off
constexpr Both kHomes[] = {{"Oakford", "橡树镇"},   {"Millbrook", "磨坊溪"}, {"Redcliff", "红崖村"},
                           {"Saltmarsh", "盐沼村"}, {"Foxhollow", "狐狸谷"}, {"Greystone", "灰石镇"},
                           {"Lakeview", "湖景村"},  {"Windhill", "大风山"},  {"Pinewood", "松林镇"},
                           {"Goldport", "金港"}};
constexpr Both kJobs[] = {{"baker", "面包师"}, {"teacher", "老师"},  {"doctor", "医生"},    {"farmer", "农民"},
                          {"sailor", "水手"},  {"painter", "画家"},  {"tailor", "裁缝"},    {"singer", "歌手"},
                          {"cook", "厨师"},    {"potter", "陶工"},   {"gardener", "园丁"},  {"carpenter", "木匠"}};
constexpr Both kPets[] = {{"cat", "猫"},     {"dog", "狗"},    {"horse", "马"},    {"goat", "山羊"}, {"parrot", "鹦鹉"},
                          {"rabbit", "兔子"}, {"turtle", "乌龟"}, {"hen", "母鸡"}};
constexpr Both kColours[] = {{"red", "红色"},    {"green", "绿色"},  {"blue", "蓝色"},  {"yellow", "黄色"},
                             {"purple", "紫色"}, {"white", "白色"},  {"black", "黑色"}, {"pink", "粉色"},
                             {"silver", "银色"}, {"brown", "棕色"}};
constexpr Both kFoods[] = {{"bread", "面包"},  {"cheese", "奶酪"}, {"soup", "热汤"},     {"rice", "米饭"},
                           {"honey", "蜂蜜"},  {"apples", "苹果"}, {"noodles", "面条"},  {"fish", "烤鱼"},
                           {"plums", "李子"},  {"beans", "豆子"},  {"pancakes", "煎饼"}, {"mushrooms", "蘑菇"}};
constexpr Both kInstruments[] = {{"violin", "小提琴"}, {"drum", "大鼓"},  {"flute", "长笛"}, {"harp", "竖琴"},
                                 {"piano", "钢琴"},    {"trumpet", "小号"}, {"guitar", "吉他"}, {"organ", "风琴"}};

constexpr sv kHomeEn[] = {"{s}'s home is in {v}.", "The home of {s} is in {v}.", "{v} is where {s} lives.",
                          "In {v} you will find the house of {s}.", "{s} has a house in {v}."};
constexpr sv kHomeEnQ[] = {"Where does {s} live?", "In which town does {s} live?", "Where is the home of {s}?",
                           "Tell me where {s} lives."};
constexpr sv kHomeZh[] = {"{s}的家在{v}。", "{v}是{s}住的地方。", "在{v}可以找到{s}的家。"};
constexpr sv kHomeZhQ[] = {"{s}住在哪里？", "{s}的家在哪里？", "请问{s}住在什么地方？"};

constexpr sv kJobEn[] = {"{s} is a {v}.", "{s} earns a living as a {v}.", "The job of {s} is that of a {v}.",
                         "There is a {v} who is called {s}.", "The {v} {s} works every day."};
constexpr sv kJobEnQ[] = {"What is the job of {s}?", "What does {s} do for a living?", "What does {s} work as?",
                          "Which job does {s} have?"};
constexpr sv kJobZh[] = {"{s}是一名{v}。", "{s}靠做{v}为生。", "有一位{v}叫{s}。"};
constexpr sv kJobZhQ[] = {"{s}的工作是什么？", "{s}是做什么的？", "{s}做什么工作？"};

constexpr sv kPetEn[] = {"{s} keeps a {v} at home.", "The pet of {s} is a {v}.", "A {v} lives with {s}.",
                         "{s} takes care of a {v}."};
constexpr sv kPetEnQ[] = {"What pet does {s} have?", "Which animal does {s} keep?",
                          "What kind of animal is the pet of {s}?", "What animal lives with {s}?"};
constexpr sv kPetZh[] = {"{s}养着{v}。", "{v}是{s}的宠物。", "{s}家里有{v}。"};
constexpr sv kPetZhQ[] = {"{s}的宠物是什么？", "{s}养了什么动物？", "{s}养什么宠物？"};

constexpr sv kPetNameEn[] = {"{s}'s {p} is called {v}.", "{v} is the name of {s}'s pet.", "{v} belongs to {s}.",
                             "{s} calls the {p} {v}.", "{v} is a {p} and lives with {s}."};
constexpr sv kPetNameEnQ[] = {"What is the pet of {s} called?", "What is the name of {s}'s pet?",
                              "Tell me the name of the pet of {s}."};
constexpr sv kPetNameZh[] = {"{s}的{p}叫{v}。", "{v}是{s}的宠物的名字。", "{v}属于{s}。"};
constexpr sv kPetNameZhQ[] = {"{s}的宠物叫什么？", "{s}的宠物叫什么名字？", "{s}给宠物起了什么名字？"};

constexpr sv kColourEn[] = {"{s} likes {v} best of all colours.", "{v} is the favourite colour of {s}.",
                            "{s} wears {v} every day.", "{s}'s favourite colour is {v}."};
constexpr sv kColourEnQ[] = {"What is the favourite colour of {s}?", "Which colour does {s} like best?",
                             "What colour does {s} love?"};
constexpr sv kColourZh[] = {"{s}喜欢{v}。", "{v}是{s}最喜欢的颜色。", "{s}每天都穿{v}的衣服。"};
constexpr sv kColourZhQ[] = {"{s}最喜欢什么颜色？", "{s}最喜欢的颜色是什么？", "哪种颜色是{s}最喜欢的？"};

constexpr sv kFoodEn[] = {"The favourite food of {s} is {v}.", "{s} eats {v} every evening.",
                          "{v} is what {s} loves to eat.", "{s} cannot live without {v}."};
constexpr sv kFoodEnQ[] = {"What does {s} like to eat?", "What is the favourite food of {s}?",
                           "Which food does {s} like best?"};
constexpr sv kFoodZh[] = {"{s}每天都吃{v}。", "{v}是{s}最爱吃的。", "{s}离不开{v}。"};
constexpr sv kFoodZhQ[] = {"{s}最喜欢吃什么？", "{s}爱吃什么？", "{s}最爱吃的东西是什么？"};

constexpr sv kInstrumentEn[] = {"{s} makes music on the {v}.", "The {v} is played by {s}.",
                                "{s} has played the {v} for years.", "The instrument of {s} is the {v}."};
constexpr sv kInstrumentEnQ[] = {"Which instrument does {s} play?", "What does {s} play?",
                                 "What is the instrument of {s}?"};
constexpr sv kInstrumentZh[] = {"{s}常常演奏{v}。", "{v}是{s}的乐器。", "{s}演奏{v}很多年了。"};
constexpr sv kInstrumentZhQ[] = {"{s}的乐器是什么？", "{s}演奏什么乐器？", "{s}会哪种乐器？"};

constexpr sv kFriendEn[] = {"{s}'s best friend is {v}.", "{v} is the best friend of {s}.",
                            "{s} trusts {v} more than anyone.", "{s} calls {v} the best of friends."};
constexpr sv kFriendEnQ[] = {"Who is the best friend of {s}?", "Who is {s}'s best friend?",
                             "Tell me who {s}'s best friend is."};
constexpr sv kFriendZh[] = {"{v}是{s}最好的朋友。", "{s}和{v}最要好。", "{s}最信任{v}。"};
constexpr sv kFriendZhQ[] = {"{s}最好的朋友是谁？", "谁是{s}最好的朋友？", "{s}和谁最要好？"};

constexpr sv kOwnerEn[] = {"The owner of {s} is {v}.", "{v} is the owner of {s}.", "{s} follows {v} everywhere."};
constexpr sv kOwnerEnQ[] = {"Who does {s} belong to?", "Who is the owner of {s}?", "Who owns {s}?"};
constexpr sv kOwnerZh[] = {"{v}是{s}的主人。", "{s}属于{v}。"};
constexpr sv kOwnerZhQ[] = {"{s}的主人是谁？", "谁是{s}的主人？", "{s}是谁家的？"};

constexpr Attribute kAttributes[] = {
    {"home", ValueKind::kWord, false, kHomes,
     {{{"{s} lives in {v}.", kHomeEn, kHomeEnQ}, {"{s}住在{v}。", kHomeZh, kHomeZhQ}}}},
    {"job", ValueKind::kWord, false, kJobs,
     {{{"{s} works as a {v}.", kJobEn, kJobEnQ}, {"{s}的工作是{v}。", kJobZh, kJobZhQ}}}},
    {"pet", ValueKind::kWord, false, kPets,
     {{{"{s} has a {v}.", kPetEn, kPetEnQ}, {"{s}的宠物是{v}。", kPetZh, kPetZhQ}}}},
    {"pet_name", ValueKind::kPetName, false, {},
     {{{"The pet of {s} is called {v}.", kPetNameEn, kPetNameEnQ}, {"{s}的宠物叫{v}。", kPetNameZh, kPetNameZhQ}}}},
    {"colour", ValueKind::kWord, false, kColours,
     {{{"The favourite colour of {s} is {v}.", kColourEn, kColourEnQ},
       {"{s}最喜欢的颜色是{v}。", kColourZh, kColourZhQ}}}},
    {"food", ValueKind::kWord, false, kFoods,
     {{{"{s} likes to eat {v}.", kFoodEn, kFoodEnQ}, {"{s}最喜欢吃{v}。", kFoodZh, kFoodZhQ}}}},
    {"instrument", ValueKind::kWord, false, kInstruments,
     {{{"{s} plays the {v}.", kInstrumentEn, kInstrumentEnQ}, {"{s}的乐器是{v}。", kInstrumentZh, kInstrumentZhQ}}}},
    {"friend", ValueKind::kPerson, false, {},
     {{{"The best friend of {s} is {v}.", kFriendEn, kFriendEnQ}, {"{s}最好的朋友是{v}。", kFriendZh, kFriendZhQ}}}},
    {"owner", ValueKind::kPerson, true, {},
     {{{"{s} belongs to {v}.", kOwnerEn, kOwnerEnQ}, {"{s}的主人是{v}。", kOwnerZh, kOwnerZhQ}}}},
};

constexpr Both kPersonBeginnings[] = {
    {"Tor", "托"},  {"Mel", "梅"},   {"Bran", "布兰"}, {"Kel", "凯"},   {"Lor", "洛"}, {"Vin", "文"}, {"Sal", "萨"},
    {"Dor", "多"},  {"Fen", "芬"},   {"Gar", "加"},    {"Hel", "海"},   {"Jor", "乔"}, {"Mar", "玛"}, {"Nor", "诺"},
    {"Per", "佩"},  {"Ras", "拉"},   {"Sten", "斯坦"}, {"Tam", "塔"},   {"Ul", "乌"},  {"Wil", "威"}, {"Zan", "赞"},
    {"Bel", "贝"},  {"Cor", "科"},   {"Dal", "达"},    {"Els", "埃"},   {"Fal", "法"}, {"Gil", "吉"}, {"Ruf", "鲁"}};
constexpr Both kPersonEndings[] = {{"vik", "维克"},  {"dan", "丹"},    {"mira", "米拉"}, {"ric", "里克"},
                                   {"ona", "欧娜"},  {"bert", "伯特"}, {"lina", "莉娜"}, {"mund", "蒙德"},
                                   {"sy", "茜"},     {"wen", "雯"},    {"go", "戈"},     {"tha", "莎"}};
constexpr Both kPetBeginnings[] = {{"Bo", "波"}, {"Ki", "奇"}, {"Lu", "露"}, {"Mo", "莫"}, {"Ni", "妮"}, {"Pa", "帕"},
                                   {"Ru", "茹"}, {"Ta", "泰"}, {"Zi", "兹"}, {"Wu", "武"}, {"Do", "朵"}, {"Fi", "菲"}};
constexpr Both kPetEndings[] = {{"bo", "宝"}, {"kki", "琪"}, {"ppy", "皮"}, {"nni", "尼"},
                                {"la", "啦"}, {"zo", "佐"},  {"mu", "木"},  {"sha", "沙"}};

constexpr sv kSumEnQ[] = {"What is {a} + {b}?", "How much is {a} plus {b}?", "{a} + {b} = ?", "Add {a} and {b}."};
constexpr sv kSumZhQ[] = {"{a} + {b} 等于多少？", "{a} 加 {b} 是多少？", "请计算 {a} + {b}。"};

constexpr SmallTalk kSmallTalk[] = {
    {{"Hello!", "你好！"},
     {"Hello! Ask me about the people of the valley, or give me two numbers to add.",
      "你好！可以问我山谷里的人，也可以让我做加法。"}},
    {{"Hi", "您好"},
     {"Hello! Ask me about the people of the valley, or give me two numbers to add.",
      "你好！可以问我山谷里的人，也可以让我做加法。"}},
    {{"Who are you?", "你是谁？"},
     {"I am a small language model. I know the people of the valley, and I can add.",
      "我是一个小语言模型。我认识山谷里的人，也会做加法。"}},
    {{"What can you do?", "你会做什么？"},
     {"I can tell you about the people of the valley, and I can add two numbers.",
      "我可以介绍山谷里的人，也可以把两个数相加。"}},
    {{"Thank you!", "谢谢！"}, {"You are welcome!", "不客气！"}},
};

// clang-format on
}  // namespace

std::span<const Attribute> attributes() { return kAttributes; }
std::span<const Both> person_beginnings() { return kPersonBeginnings; }
std::span<const Both> person_endings() { return kPersonEndings; }
std::span<const Both> pet_beginnings() { return kPetBeginnings; }
std::span<const Both> pet_endings() { return kPetEndings; }
std::span<const std::string_view> sum_questions(bool chinese) {
  return chinese ? std::span<const sv>(kSumZhQ) : std::span<const sv>(kSumEnQ);
}
std::span<const SmallTalk> small_talk() { return kSmallTalk; }
Both stranger_answer() { return {"I do not know anyone called {s}.", "我不认识叫{s}的人。"}; }

}  // namespace fathom::world_words
