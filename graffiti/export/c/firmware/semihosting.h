/* The few calls of Arm semihosting that the example needs: a debugger or an emulator carries them out on the host. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

static inline int32_t semihosting_call(int32_t operation, const void *argument) {
    register int32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* Text on the host's console. */
static inline void semihosting_print(const char *text) { semihosting_call(0x04, text); }

/* End the program with an exit code. */
static inline void semihosting_exit(int32_t code) {
    const uint32_t block[2] = {0x20026u, (uint32_t)code}; /* ADP_Stopped_ApplicationExit */
    semihosting_call(0x20, block);
    for (;;) {
    }
}

/* A file of the host for reading or writing, in binary; -1 where it cannot be opened. */
static inline int32_t semihosting_open(const char *name, int write) {
    uint32_t length = 0;
    while (name[length] != 0) length++;
    const uint32_t block[3] = {(uint32_t)(uintptr_t)name, write ? 5u : 1u, length};
    return semihosting_call(0x01, block);
}

static inline void semihosting_close(int32_t file) {
    const uint32_t block[1] = {(uint32_t)file};
    semihosting_call(0x02, block);
}

/* Bytes that were read: fewer than `size` at the end of the file. */
static inline size_t semihosting_read(int32_t file, void *data, size_t size) {
    const uint32_t block[3] = {(uint32_t)file, (uint32_t)(uintptr_t)data, (uint32_t)size};
    return size - (size_t)semihosting_call(0x06, block);
}

/* Whether all bytes were written. */
static inline int semihosting_write(int32_t file, const void *data, size_t size) {
    const uint32_t block[3] = {(uint32_t)file, (uint32_t)(uintptr_t)data, (uint32_t)size};
    return semihosting_call(0x05, block) == 0;
}

/* The command line that the host passes, cut to `size` bytes; empty where there is none. */
static inline void semihosting_command_line(char *line, size_t size) {
    uint32_t block[2] = {(uint32_t)(uintptr_t)line, (uint32_t)size};
    if (semihosting_call(0x15, block) != 0) line[0] = 0;
}
#endif /* SEMIHOSTING_H */
