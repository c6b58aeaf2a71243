// Waits for ever, without a libc, so that it can be built for 32 bits anywhere.
void _start(void) {
    __asm__ volatile("int $0x80" : : "a"(4), "b"(1), "c"("ready\n"), "d"(6) : "memory"); // write
    for (;;)
        __asm__ volatile("int $0x80" : : "a"(29)); // pause
}
