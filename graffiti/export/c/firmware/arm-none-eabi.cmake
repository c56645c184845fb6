# Cross-compiling with GCC for Cortex-M:
#   cmake -S . -B build -DCMAKE_TOOLCHAIN_FILE=firmware/arm-none-eabi.cmake -DCPU=cortex-m55
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CPU)

set(CPU "cortex-m4" CACHE STRING "the core, as -mcpu takes it")
if(CPU MATCHES "cortex-m(4|7|33|55)")
    set(FLOAT_ABI hard)
else()
    set(FLOAT_ABI soft)
endif()
set(CMAKE_C_FLAGS_INIT "-mthumb -mcpu=${CPU} -mfloat-abi=${FLOAT_ABI} -mfpu=auto -ffunction-sections -fdata-sections")
