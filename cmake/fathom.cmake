# The two helpers of the build: a folder of src/ is one library (fathom_library), and every
# *_test.cc beside the code is part of that folder's one test program. Files are found by glob, so a
# test that nobody registered cannot exist.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# Checks stay on in every build type (they are ours, not assert's); -O3 only where kernels ask for it.
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g")

find_program(FATHOM_CCACHE ccache)
if(FATHOM_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${FATHOM_CCACHE})
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(nlohmann_json REQUIRED IMPORTED_TARGET nlohmann_json)
pkg_check_modules(tomlplusplus REQUIRED IMPORTED_TARGET tomlplusplus)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(zlib REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(zstd REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(simdjson REQUIRED IMPORTED_TARGET simdjson)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(libedit REQUIRED IMPORTED_TARGET libedit)
pkg_check_modules(sqlite3 REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(openssl REQUIRED IMPORTED_TARGET openssl)
find_package(Boost 1.81 REQUIRED)

# Flags that every target of ours gets. Contraction of a*b+c into one rounding is off: with it the
# same source gives other bits under another compiler; kernels write their FMAs out.
add_library(fathom_flags INTERFACE)
target_compile_options(fathom_flags INTERFACE -Wall -Wextra -Wno-missing-field-initializers -Wno-psabi
                                              -ffp-contract=off -fno-math-errno)
if(FATHOM_WERROR)
  target_compile_options(fathom_flags INTERFACE -Werror)
endif()
if(FATHOM_SANITIZE)
  target_compile_options(fathom_flags INTERFACE -fsanitize=${FATHOM_SANITIZE} -fno-sanitize-recover=all
                                                -fno-omit-frame-pointer)
  target_link_options(fathom_flags INTERFACE -fsanitize=${FATHOM_SANITIZE})
endif()
if(FATHOM_FUZZ)
  target_compile_options(fathom_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

if(FATHOM_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_library(fathom_test_pch STATIC ${CMAKE_SOURCE_DIR}/cmake/test_pch.cc)
  target_link_libraries(fathom_test_pch PUBLIC fathom_flags GTest::gtest_main fmt::fmt)
  target_precompile_headers(fathom_test_pch PUBLIC <gtest/gtest.h> <vector> <string> <cmath>)
endif()

# One test program; its tests are found at test time. Golden files are found below tests/golden.
function(fathom_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINK} fathom_flags fathom_test_pch)
  target_precompile_headers(${name} REUSE_FROM fathom_test_pch)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE
    FATHOM_SOURCE_DIR="${CMAKE_SOURCE_DIR}" FATHOM_GOLDEN_DIR="${CMAKE_SOURCE_DIR}/tests/golden"
    FATHOM_BINARY_DIR="${CMAKE_BINARY_DIR}")
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST TEST_PREFIX "${name}." PROPERTIES TIMEOUT 600)
endfunction()

# GCC 12 takes the deliberately undefined registers inside its AVX-512 intrinsics for mistakes (its bug
# 105593).
set(FATHOM_NO_FALSE_UNINITIALIZED
  "$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>;$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>")

# With FATHOM_UNITY a library is compiled sixteen files at a time, which halves a first build: most of a
# file's time goes to the headers that all of them read. NO_UNITY: its files use one name for different
# things, as verbs do. The library fathom_<name> of src/<name>, and its test program from the *_test.cc files. Files named
# *_avx2.cc, *_avx512.cc and *_avx512bf16.cc are compiled for that instruction set, alone.
function(fathom_library name)
  cmake_parse_arguments(arg "NO_UNITY" "" "LINK;LINK_PRIVATE" ${ARGN})
  file(GLOB_RECURSE all CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  set(tests ${all})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(sources ${all})
  list(FILTER sources EXCLUDE REGEX "(_(test|fuzz)|/main)\\.cc$")
  if(NOT sources)
    add_library(fathom_${name} INTERFACE)  # a folder of headers still carries its links
    target_link_libraries(fathom_${name} INTERFACE ${arg_LINK})
    return()
  endif()
  add_library(fathom_${name} STATIC ${sources})
  target_include_directories(fathom_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(fathom_${name} PUBLIC ${arg_LINK} PRIVATE fathom_flags ${arg_LINK_PRIVATE})
  if(FATHOM_UNITY AND NOT arg_NO_UNITY)
    set_target_properties(fathom_${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
  endif()
  set(simd_flags "-O3")
  if(FATHOM_FUZZ)
    # No parser runs them, and instrumented intrinsics take minutes to compile.
    set(simd_flags "-O0;-fno-sanitize=all")
  elseif(FATHOM_SANITIZE MATCHES "undefined")
    # Addresses on the heap stay checked. Checks of arithmetic, and of the registers' worth of arrays on the
    # stack, would take GCC minutes for a file.
    set(simd_flags "-O2;-fno-sanitize=undefined;$<$<CXX_COMPILER_ID:GNU>:--param=asan-stack=0>")
  endif()
  foreach(source ${sources})
    if(source MATCHES "_avx2\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${simd_flags};-mavx2;-mfma;-mf16c")
    elseif(source MATCHES "_avx512bf16\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
        "${simd_flags};-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vbmi;-mavx512vnni;-mavx512bf16;-mprefer-vector-width=512;${FATHOM_NO_FALSE_UNINITIALIZED}")
    elseif(source MATCHES "_avx512\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
        "${simd_flags};-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mprefer-vector-width=512;${FATHOM_NO_FALSE_UNINITIALIZED}")
    endif()
  endforeach()
  if(FATHOM_TESTS AND tests)
    fathom_test(${name}_test SOURCES ${tests} LINK fathom_${name})
  endif()
  if(FATHOM_FUZZ)
    set(fuzzers ${all})
    list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")
    foreach(fuzzer ${fuzzers})
      get_filename_component(stem ${fuzzer} NAME_WE)
      add_executable(${stem} ${fuzzer})
      target_link_libraries(${stem} PRIVATE fathom_${name} fathom_flags)
      target_link_options(${stem} PRIVATE -fsanitize=fuzzer)
    endforeach()
  endif()
endfunction()

# The page's built files, compressed, in the library: see embed_assets.cmake.
function(fathom_embed_assets name folder)
  file(GLOB_RECURSE assets CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*)
  set(to ${CMAKE_BINARY_DIR}/assets)
  add_custom_command(
    OUTPUT ${to}/assets.cc
    COMMAND ${CMAKE_COMMAND} -DFROM=${CMAKE_SOURCE_DIR}/${folder} -DTO=${to}
            -P ${CMAKE_SOURCE_DIR}/cmake/embed_assets.cmake
    DEPENDS ${assets} ${CMAKE_SOURCE_DIR}/cmake/embed_assets.cmake VERBATIM)
  target_sources(fathom_${name} PRIVATE ${to}/assets.cc)
endfunction()

# The sources that see Boost's headers, which take long to compile.
# Clang 14 cannot emit coroutines whose functions carry the sanitizer's type in front of them.
function(fathom_use_beast name)
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS
    "$<$<CXX_COMPILER_ID:GNU>:-fcoroutines>;$<$<CXX_COMPILER_ID:Clang>:-fno-sanitize=function>;${FATHOM_NO_FALSE_UNINITIALIZED}")
endfunction()

# Builds one source of a library against the headers and libraries that a pyarrow wheel brings along
# (Debian 12 has no Arrow).
function(fathom_use_arrow name source)
  file(GLOB libraries ${FATHOM_ARROW_DIR}/libparquet.so.* ${FATHOM_ARROW_DIR}/libarrow.so.*)
  list(LENGTH libraries count)
  if(NOT count EQUAL 2)
    message(FATAL_ERROR "FATHOM_ARROW_DIR=${FATHOM_ARROW_DIR}: expected one libparquet.so.* and one "
                        "libarrow.so.* there, found: ${libraries}")
  endif()
  set_source_files_properties(${source} PROPERTIES COMPILE_DEFINITIONS FATHOM_PARQUET=1
                              COMPILE_OPTIONS "-isystem;${FATHOM_ARROW_DIR}/include")
  target_link_libraries(fathom_${name} PRIVATE ${libraries})
endfunction()

# Open MPI where it is installed: ranks as processes. Without it ranks are threads alone.
function(fathom_use_mpi name)
  pkg_check_modules(mpi QUIET IMPORTED_TARGET ompi)
  if(NOT mpi_FOUND)
    message(STATUS "No Open MPI: training on several processes is left out")
    return()
  endif()
  target_link_libraries(fathom_${name} PUBLIC PkgConfig::mpi)
  target_compile_definitions(fathom_${name} PUBLIC FATHOM_MPI=1 OMPI_SKIP_MPICXX=1)
endfunction()

# The program: src/<folder>/main.cc over the library of that folder.
function(fathom_program name folder)
  add_executable(${name} ${CMAKE_SOURCE_DIR}/src/${folder}/main.cc)
  target_link_libraries(${name} PRIVATE fathom_${folder} fathom_flags)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endfunction()

# Tests across modules: each tests/NAME_test.cc is its own program, linked against everything.
function(fathom_test_folder folder)
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*_test.cc)
  foreach(test ${tests})
    get_filename_component(stem ${test} NAME_WE)
    fathom_test(${stem} SOURCES ${test} LINK ${FATHOM_EVERYTHING})
    if(TARGET fathom)
      add_dependencies(${stem} fathom)
    endif()
  endforeach()
endfunction()

# The same test program once more under each instruction-set level; levels that the processor lacks
# are reported as skipped.
function(fathom_test_at_levels name)
  foreach(level ref avx2 avx512 avx512bf16)
    add_test(NAME ${name}.forced_${level} COMMAND ${name})
    set_tests_properties(${name}.forced_${level} PROPERTIES
      ENVIRONMENT "FATHOM_FORCE_ISA=${level}" TIMEOUT 600
      SKIP_REGULAR_EXPRESSION "found '${level}', which this processor lacks")
  endforeach()
endfunction()

# Benchmarks: each bench/NAME.cc is a program.
function(fathom_bench_folder folder)
  file(GLOB benches CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cc)
  foreach(bench ${benches})
    get_filename_component(stem ${bench} NAME_WE)
    add_executable(bench_${stem} EXCLUDE_FROM_ALL ${bench})
    target_link_libraries(bench_${stem} PRIVATE ${FATHOM_EVERYTHING} fathom_flags)
  endforeach()
endfunction()

# The comparison with other libraries: one program, of those rivals that are installed; the product
# itself links none of them.
function(fathom_rivals folder)
  find_path(FATHOM_ONEDNN_INCLUDE oneapi/dnnl/dnnl.hpp)
  find_library(FATHOM_ONEDNN_LIBRARY dnnl)
  find_package(OpenMP QUIET COMPONENTS CXX)
  pkg_check_modules(openblas QUIET IMPORTED_TARGET openblas)
  add_executable(bench_rivals EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/${folder}/products.cc)
  target_link_libraries(bench_rivals PRIVATE fathom_kernels fathom_flags)
  if(FATHOM_ONEDNN_INCLUDE AND FATHOM_ONEDNN_LIBRARY AND OpenMP_CXX_FOUND)
    target_sources(bench_rivals PRIVATE ${CMAKE_SOURCE_DIR}/${folder}/onednn.cc)
    target_include_directories(bench_rivals SYSTEM PRIVATE ${FATHOM_ONEDNN_INCLUDE})
    target_link_libraries(bench_rivals PRIVATE ${FATHOM_ONEDNN_LIBRARY} OpenMP::OpenMP_CXX)
    target_compile_definitions(bench_rivals PRIVATE FATHOM_ONEDNN)
  endif()
  if(openblas_FOUND)
    target_sources(bench_rivals PRIVATE ${CMAKE_SOURCE_DIR}/${folder}/openblas.cc)
    target_link_libraries(bench_rivals PRIVATE PkgConfig::openblas)
    target_compile_definitions(bench_rivals PRIVATE FATHOM_OPENBLAS)
  endif()
endfunction()
