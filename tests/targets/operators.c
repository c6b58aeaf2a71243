/* C++'s operators by their mangled names, so that a C compiler is enough. */
#include <stddef.h>

void *_Znwm(size_t);                      /* operator new */
void *_Znam(size_t);                      /* operator new[] */
void _ZdlPv(void *);                      /* operator delete */
void _ZdaPv(void *);                      /* operator delete[] */
void _ZdlPvm(void *, size_t);             /* sized */

long new_and_delete(long size)
{
    _ZdlPv(_Znwm(size));
    _ZdaPv(_Znam(size + 1));
    _ZdlPvm(_Znwm(size + 2), size + 2);
    _ZdlPv(_Znwm(size + 3));
    return 0;
}
