/* Built for the large code model without PIC: the functions' addresses are operands of instructions. */
#include <stdlib.h>

long both(long size)
{
    for (int i = 0; i < 1000; i++) {
        void *block = malloc(size);
        if (!block)
            return 0;
        free(block);
    }
    return 1;
}
