//! Reading ahead: one thread decodes while the other counts.

use std::sync::mpsc;

use super::reader::{Event, Reader};

/// Events that are handed over at once: enough that handing over costs nothing, few enough to stay in a cache.
const BATCH_EVENTS: usize = 4096;

/// Batches on their way. Whoever is slower makes the other wait.
const BATCHES_COUNT: usize = 4;

impl Reader {
    /// Gives all events to `take`, in their order, many at a time, while a second thread reads on.
    pub fn for_each_batch(&mut self, mut take: impl FnMut(&[Event])) {
        let (full_sender, full) = mpsc::sync_channel::<Vec<Event>>(BATCHES_COUNT);
        let (empty_sender, empty) = mpsc::channel();
        for _ in 0..BATCHES_COUNT {
            // The receiver is there.
            let _ = empty_sender.send(Vec::with_capacity(BATCH_EVENTS));
        }
        let is_read = std::thread::scope(|scope| {
            let reader = &mut *self;
            let decode = move || {
                for mut events in empty {
                    reader.next_events(&mut events, BATCH_EVENTS);
                    if events.is_empty() || full_sender.send(events).is_err() {
                        break;
                    }
                }
            };
            let started = std::thread::Builder::new()
                .name("decode".into())
                .spawn_scoped(scope, decode);
            if started.is_err() {
                return false;
            }
            for events in full {
                take(&events);
                // The other end is gone once it has sent the last batch.
                let _ = empty_sender.send(events);
            }
            true
        });
        if is_read {
            return;
        }
        // No second thread is to be had.
        let mut events = Vec::new();
        loop {
            self.next_events(&mut events, BATCH_EVENTS);
            if events.is_empty() {
                return;
            }
            take(&events);
        }
    }
}
