#pragma once

// Valid request streams of every kind that the connection reads, for the tests that cut and mutate
// them. After each a connection is between calls.

#include <string>
#include <vector>

namespace servolley::net {

inline std::string get(const std::string& target) {
  return "GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n";
}

inline std::string post(const std::string& target, const std::string& body,
                        const std::string& headers = {}) {
  return "POST " + target +
         " HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         headers + "\r\n" + body;
}

inline std::string chunked(const std::string& target, const std::string& chunks) {
  return "POST " + target + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks;
}

inline std::vector<std::string> valid_streams() {
  std::string binary;
  for (int i = 0; i < 256; ++i) binary += static_cast<char>(i);
  std::string many_headers = "GET / HTTP/1.1\r\nHost: h\r\n";
  for (int i = 0; i < 60; ++i) {
    many_headers += "X-Header-" + std::to_string(i) + ": \t value " + std::to_string(i) + " \r\n";
  }
  many_headers += "\r\n";
  std::string pipelined;
  for (int i = 0; i < 20; ++i) {
    pipelined += i % 3 ? get("/" + std::to_string(i)) : post("/" + std::to_string(i), "body");
  }
  return {
      get("/"),
      get("/v2/health/ready?x=y"),
      get("http://h:80/v2"),
      post("/v2/models/m/infer", "{\"inputs\":[]}", "Content-Type: application/json\r\n"),
      post("/empty", ""),
      post("/binary", binary),
      post("/a", "first\r\n\r\n") + post("/b", "GET / HTTP/1.1\r\nHost: h\r\n\r\n") + get("/c"),
      post("/infer", "{}" + binary,
           "Inference-Header-Content-Length: 2\r\nAccept-Encoding: gzip, deflate\r\n"),
      post("/twice", "x",
           "Inference-Header-Content-Length: 1\r\nInference-Header-Content-Length: 1\r\n"),
      chunked("/chunks", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n") + get("/after"),
      chunked("/none", "0\r\n\r\n") + chunked("/none", "000\r\n\r\n"),
      chunked("/binary", "100\r\n" + binary + "\r\n0\r\n\r\n"),
      chunked("/extras", "1;a;b=c\r\nx\r\n1 ; d=e\r\ny\r\n0;f\r\nTrailer: v\r\nX:\r\n\r\n"),
      chunked("/ones", "1\r\n\r\r\n1\r\n\n\r\n1\r\n0\r\n01\r\n\r\r\n0\r\n\r\n") + get("/after"),
      "HEAD /head HTTP/1.1\r\nHost: h\r\n\r\n" + get("/next"),
      "\r\n" + get("/a") + "\r\n" + post("/b", "c") + "\r\n" + get("/d"),
      "OPTIONS /v2 HTTP/1.1\r\nhOsT:h\r\nEmpty:\r\nSpaces:   \r\n\r\n",
      post("/expect", "body", "Expect: 100-continue\r\n") + get("/after"),
      many_headers + many_headers,
      pipelined,
  };
}

}  // namespace servolley::net
