# Writes THIRD_PARTY_LICENSES for the wheel: what is compiled into or linked by _core, with the licence texts that
# the building machine's packages carry. A text that is not there is named by its SPDX identifier and address, so
# that a machine which lays out its packages differently still builds.

set(output ${CMAKE_CURRENT_BINARY_DIR}/THIRD_PARTY_LICENSES)
file(WRITE ${output} "servolley ${SERVOLLEY_VERSION} is licensed under Apache-2.0 (LICENSE).\n"
  "Its compiled module contains or links the following works of others.\n")

function(third_party name how spdx url)
  set(text "")
  foreach(pattern ${ARGN})
    file(GLOB files ${pattern})
    foreach(path ${files})
      if(NOT text AND NOT IS_DIRECTORY ${path})
        file(READ ${path} text)
      endif()
    endforeach()
  endforeach()
  # Boost's file covers every library of the collection; what we compile in is under BSL-1.0 alone.
  if(spdx STREQUAL "BSL-1.0" AND text)
    string(FIND "${text}" "License: BSL-1.0\n Boost Software License" start REVERSE)
    if(start GREATER -1)
      string(SUBSTRING "${text}" ${start} -1 text)
      string(FIND "${text}" "\n\n" end)
      string(SUBSTRING "${text}" 0 ${end} text)
    endif()
  endif()
  if(NOT text)
    set(text "The text is at ${url}")
    message(STATUS "No licence text of ${name} on this machine: THIRD_PARTY_LICENSES gives its address")
  endif()
  file(APPEND ${output} "\n${name} (${spdx}), ${how}\n${url}\n\n${text}\n")
endfunction()

set(docs /usr/share/doc)
third_party("Boost" "headers compiled in" BSL-1.0 https://www.boost.org/LICENSE_1_0.txt
  "${docs}/libboost1.*-dev/copyright" "${docs}/libboost-dev/copyright")
third_party("fast_float" "headers compiled in" MIT https://github.com/fastfloat/fast_float
  "${docs}/libfast-float-dev/copyright")
third_party("nghttp2" "linked" MIT https://github.com/nghttp2/nghttp2
  "${docs}/libnghttp2-dev/copyright" "${docs}/libnghttp2-14/copyright")
third_party("protozero" "headers compiled in" BSD-2-Clause https://github.com/mapbox/protozero
  "${docs}/libprotozero-dev/copyright")
third_party("pybind11" "headers compiled in" BSD-3-Clause https://github.com/pybind/pybind11
  "${pybind11_DIR}/../../../../pybind11-*.dist-info/licenses/LICENSE"
  "${docs}/pybind11-dev/copyright" "${docs}/python3-pybind11/copyright")
third_party("zlib" "linked" Zlib https://zlib.net/zlib_license.html
  "${docs}/zlib1g-dev/copyright" "${docs}/zlib1g/copyright")
