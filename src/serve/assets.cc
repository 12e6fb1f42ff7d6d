#include "serve/assets.h"

#include <zlib.h>

#include "core/error.h"

namespace fathom::serve {
namespace {

// Scripts and everything else from this server alone, and nothing inline: mathematics sets its styles
// one property at a time.
constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

const char* type_of(std::string_view path) {
  constexpr std::pair<std::string_view, const char*> kTypes[] = {
      {".html", "text/html; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".svg", "image/svg+xml"},
      {".json", "application/json"},
      {".webmanifest", "application/manifest+json"},
      {".woff2", "font/woff2"},
      {".png", "image/png"},
      {".ico", "image/x-icon"},
      {".txt", "text/plain; charset=utf-8"},
  };
  for (const auto& [ending, type] : kTypes) {
    if (path.ends_with(ending)) return type;
  }
  return "application/octet-stream";
}

std::string unpack(const EmbeddedAsset& asset) {
  z_stream stream{};
  FATHOM_CHECK_EQ(inflateInit2(&stream, 16 + MAX_WBITS), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(asset.begin));
  stream.avail_in = static_cast<uInt>(asset.end - asset.begin);
  std::string out;
  int result = Z_OK;
  while (result == Z_OK) {
    char buffer[16384];
    stream.next_out = reinterpret_cast<Bytef*>(buffer);
    stream.avail_out = sizeof buffer;
    result = inflate(&stream, Z_NO_FLUSH);
    out.append(buffer, sizeof buffer - stream.avail_out);
  }
  inflateEnd(&stream);
  FATHOM_CHECK_EQ(result, Z_STREAM_END, "{}", asset.path);
  return out;
}

bool is_page_address(std::string_view path) {
  return path == "/" || path == "/console" || path == "/status" || path.starts_with("/c/");
}

}  // namespace

std::optional<HttpResponse> find_asset(const HttpRequest& request) {
  const bool is_address = is_page_address(request.path);
  const std::string_view path = is_address ? "/index.html" : std::string_view(request.path);
  for (const EmbeddedAsset& asset : embedded_assets()) {
    if (asset.path != path) continue;
    const std::string tag = fmt::format("\"{}\"", asset.tag);
    const bool named_by_hash = path.starts_with("/assets/");
    HttpResponse response;
    response.headers = {
        {"Content-Type", type_of(path)},
        {"Cache-Control", named_by_hash ? "public, max-age=31536000, immutable" : "no-cache"},
        {"ETag", tag},
        {"Vary", "Accept-Encoding"},
        {"Content-Security-Policy", kPolicy},
        {"X-Content-Type-Options", "nosniff"},
        {"X-Frame-Options", "DENY"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Opener-Policy", "same-origin"}};
    if (request.header("if-none-match").find(tag) != std::string_view::npos) {
      response.status = 304;
      return response;
    }
    if (request.header("accept-encoding").find("gzip") != std::string_view::npos) {
      response.headers.emplace_back("Content-Encoding", "gzip");
      response.body.assign(asset.begin, asset.end);
    } else {
      response.body = unpack(asset);
    }
    return response;
  }
  if (!is_address) return std::nullopt;
  HttpResponse response = HttpResponse::text(
      "This program was built without its page (web/dist). The API is here: see docs/serve.md.\n",
      404);
  return response;
}

}  // namespace fathom::serve
