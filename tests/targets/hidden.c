/* A library without an exported symbol, like most programs: nothing in its hash table leads to its imports. It tells
 * the address of its only function by the environment. */
#include <stdio.h>
#include <stdlib.h>

static long both(long size)
{
    free(malloc(size));
    return 1;
}

__attribute__((constructor)) static void tell(void)
{
    char text[32];
    snprintf(text, sizeof text, "%ld", (long)&both);
    setenv("HIDDEN_FUNCTION", text, 1);
}
