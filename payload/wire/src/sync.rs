//! The atomics of shared memory: core's, at no cost. In a model build (`--cfg loom`) they are loom's, which tries
//! every order in which threads may run and every value that the memory model lets a load return; and a model
//! can take an ordering away, to show that it would notice.

#[cfg(not(loom))]
pub use core::hint::spin_loop;
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
pub use loom::hint::spin_loop;
#[cfg(loom)]
pub use model::{AtomicU32, AtomicU64, Ordering, weaken};

#[cfg(loom)]
mod model {
    extern crate std;

    use core::cell::Cell;
    pub use core::sync::atomic::Ordering;
    use std::thread_local;

    thread_local! {
        /// The ordering that this test's models go without. All threads of a model share one thread of the system.
        static WITHOUT: Cell<Option<Ordering>> = const { Cell::new(None) };
    }

    /// From here on every operation of this test that asks for `ordering` gets a relaxed one.
    pub fn weaken(ordering: Ordering) {
        WITHOUT.with(|without| without.set(Some(ordering)));
    }

    fn given(asked: Ordering) -> Ordering {
        let is_weak = WITHOUT.with(|without| without.get()) == Some(asked);
        if is_weak { Ordering::Relaxed } else { asked }
    }

    macro_rules! model_atomic {
        ($name:ident, $value:ty) => {
            /// As core's, as far as memray uses it.
            #[derive(Default)]
            pub struct $name(loom::sync::atomic::$name);

            impl $name {
                pub fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    self.0.load(given(order))
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, given(order));
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, given(order))
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_add(value, given(order))
                }

                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.0
                        .compare_exchange(current, new, given(success), given(failure))
                }
            }
        };
    }

    model_atomic!(AtomicU32, u32);
    model_atomic!(AtomicU64, u64);
}
