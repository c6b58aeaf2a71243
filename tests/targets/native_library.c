/* Calls back from code that comes and goes. FRAME_BYTES makes two of it that differ. */
#include <string.h>
#ifndef FRAME_BYTES
#define FRAME_BYTES 100
#endif
int call_in_library(void *(*function)(const char *), const char *kind) {
    char room[FRAME_BYTES];
    memset(room, 1, sizeof room);
    __asm__ volatile("" ::"r"(room) : "memory");
    void *result = function(kind);
    __asm__ volatile("" ::"r"(room) : "memory");
    return result != 0;
}
