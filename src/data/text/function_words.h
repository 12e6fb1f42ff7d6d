// The short words that sentences of a language cannot do without, told apart from those of its
// neighbours. Data of labels.cc.
#pragma once

#include <string_view>

namespace fathom {

struct FunctionWords {
  std::string_view language;
  std::string_view words;  // small letters, one space between
};

inline constexpr FunctionWords kFunctionWords[] = {
    {"en",
     "the of and to in is that was for it with as his on be at by had not are but from or have an "
     "they which you were her she all this we there been would their if when who will what"},
    {"de",
     "der die das und ist zu den mit nicht von sich auf ein eine dem des im für es auch als an "
     "werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über so zum war"},
    {"fr",
     "le la les de des et est un une du en que qui dans pour pas sur au plus par ce il elle ne se "
     "sont avec aux mais nous vous ou cette été leur ont être à l d c n s qu j'ai"},
    {"es",
     "el la los las de que y en un una es se no por con para su al lo como más del pero sus le ha "
     "si sin sobre este ya entre cuando todo esta ser son dos también fue había era muy hasta"},
    {"pt",
     "o a os as de que e em um uma é se não por com para do da no na dos das ao mais mas foi ele "
     "como ou ser quando muito nos já está eu também só pelo pela até isso são à você nas"},
    {"it",
     "il lo la i gli le di che e è un una in per non con del della dei si da al nel sono come ma "
     "più anche questo ha dal alla delle o se ci essere stato dalla degli nella due suo l un"},
    {"nl",
     "de het een en van in is dat op te zijn met voor niet aan er om ook als maar bij door naar "
     "uit "
     "heeft hij worden wordt nog deze zo kan over tot hun meer werd wat geen ze ik je"},
    {"sv",
     "och att det i en som på är av för med den till inte om ett han men var jag sig från vi så "
     "kan "
     "när har de skulle eller efter hade nu där vid också ska bara sin mot"},
    {"da",
     "og at det i en som på er af for med den til ikke om et han men var jeg sig fra vi så kan når "
     "har de skulle eller efter havde nu der ved også skal blev sin mod hvad være kun"},
    {"no",
     "og å det i en som på er av for med den til ikke om et han men var jeg seg fra vi så kan når "
     "har de skulle eller etter hadde nå der ved også skal ble sin mot hva være bare"},
    {"fi",
     "ja on ei se että oli hän ovat kun niin mutta joka kuin myös sen tai ole mukaan vain jos "
     "hänen voi sekä jotka olla ne nyt olivat tämä siitä ollut koska jo mitä kuten"},
    {"pl",
     "i w na z się nie do to że jest o jak po za od tym co dla są przez ale jego ich był przy może "
     "oraz tylko które także który już być było lub czy też został tego"},
    {"cs",
     "a v se na je že s z do o i to jako za by ve pro jsou po k ale od která který své už jeho "
     "nebo "
     "byl také které při jen až bylo si ze jsem před aby mezi není"},
    {"ro",
     "și în de la a cu o pe nu din că este sunt pentru mai un care au fost se ca lui prin sau fi "
     "după dar într al ale acest această sale cele fără când era doar către"},
    {"hu",
     "a az és hogy nem is egy volt ez van már csak mint meg de ha el még ki azt vagy lehet amely "
     "pedig után lesz ezt kell minden sem aki ami szerint között"},
    {"tr",
     "ve bir bu için ile da de ne çok olarak daha gibi olan kadar en o sonra ama var değil ise "
     "her ki ya olduğu tarafından göre veya ancak diye mi ben"},
    {"vi",
     "và của là có trong được các cho không một người những với đã này khi đến từ để ra về cũng "
     "như tại nhiều trên năm còn phải thì sẽ ở vào lại"},
    {"id",
     "yang dan di dengan untuk dari ini itu pada tidak dalam adalah akan ke oleh juga sebagai "
     "telah "
     "bisa atau ada karena mereka saya dapat lebih tersebut seperti bahwa orang kami"},
    {"ru",
     "и в не на что с он как это по но из у за от так же все она его для мы бы вы только было был "
     "к "
     "о или если еще их чтобы до уже при когда она"},
    {"uk",
     "і в не на що з як це та до але у за від його вона для ми було був про або їх щоб вже при "
     "коли "
     "є які який також після між може цього бути й"},
    {"bg",
     "и в не на че с той като това по но от за се са да е тя го или ще със при до му след което "
     "които беше има още само който били й"},
    {"sr",
     "и у је да се на за са од као су које који што би али није до или те из после био ово јер"},
    {"hr",
     "i u je da se na za su od koji s kao što koja iz bi ili nije ali te biti koje samo bio kako "
     "može nakon više prema bila jer ovaj kad ako ih također između"},
    {"sk",
     "a v sa na je že s z do o aj to ako za by vo pri sú po k ale od ktorá ktorý svoje už jeho "
     "alebo bol tiež ktoré keď len až bolo si zo som pred aby medzi nie"},
    {"sl",
     "in v je na se da za so ki z pa po tudi kot od do ne bi pri ali o iz še ter biti lahko bil "
     "kar ko bilo med če kako ta več leta zaradi ker"},
    {"ca",
     "de la el que i a en un una per els les amb és no es del al com més va però són aquest seva "
     "seu o ha pel dels també molt fer quan entre aquesta tots hi ser està"},
    {"af",
     "die van en in is het dat te nie om vir wat met op hy aan sy as was 'n ook deur word kan uit "
     "maar hulle sal na of by tot ons jy ek daar hierdie was"},
    {"eo",
     "la kaj de en estas al ke ne mi por kun vi li estis per kiu ĝi pri el ili ĉu se tio sed tiu "
     "pli povas aŭ oni havas ĉi kiel unu ŝi iu tre nur"},
    {"fa", "و در به از که این را با است برای آن یک تا بر می هم شده خود یا ها نیز کند شد بود ما"},
    {"ur", "اور کے میں کی ہے کا سے کو نے پر ہیں کہ یہ ایک اس بھی تھا کر وہ جو ان لئے نہیں ہو"},
    {"ar", "في من على إلى أن هذا التي عن مع الذي هذه كان لا ما أو بعد قد بين كما ذلك لم كل ثم هو"},
};

}  // namespace fathom
