//! A capture's records one by one, both kinds of file, as they stand: no stacks are kept, no meaning is added.

use std::path::Path;

use super::{
    appendix::Appendix,
    error::{Damage, ReadError},
    fields::{AddressCache, Fault, Fields},
    header::{self, FileFormat, Header, HeaderFault},
    record::{AggregatedAllocation, RawRecord},
    source::{HEAD_BYTES, Source},
    token::{self, LINETABLE_BYTES_MAX, STRING_BYTES_MAX},
    varint::{VARINT_BYTES_MAX, unzigzag},
};

/// Reads records until the trailer, the content's end or the first damage.
pub struct RawReader {
    pub(super) source: Source,
    pub(super) header: Header,
    appendix: Option<Appendix>,
    pub(super) addresses: AddressCache,
    last_ip: u64,
    pub(super) last_native_frame: u64,
    last_firstlineno: i32,
    pub(super) done: bool,
    trailer: bool,
    damage: Option<Damage>,
}

impl RawReader {
    /// Opens a raw or compressed capture of version 12 or 13 and reads its header and appendix.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::of_source(Source::open(path)?)
    }

    /// The same for a file that is open.
    #[cfg(any(test, fuzzing))]
    pub fn of_file(file: std::fs::File) -> Result<Self, ReadError> {
        Self::of_source(Source::of_file(file, Path::new("file"))?)
    }

    fn of_source((mut source, appendix): (Source, Option<Appendix>)) -> Result<Self, ReadError> {
        let header = read_header(&mut source)?;
        Ok(Self {
            source,
            header,
            appendix,
            addresses: AddressCache::default(),
            last_ip: 0,
            last_native_frame: 0,
            last_firstlineno: 0,
            done: false,
            trailer: false,
            damage: None,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn appendix(&self) -> Option<&Appendix> {
        self.appendix.as_ref()
    }

    /// Content that was taken so far.
    #[cfg(fuzzing)]
    pub fn content_bytes(&self) -> u64 {
        self.source.offset()
    }

    /// What ended the records early, once they have ended.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Whether the capture was closed. Otherwise its writer was killed or is still writing. A trailer is not
    /// enough: in our raw files one stands at the end at all times, and only closing moves the end time.
    pub fn is_complete(&self) -> bool {
        let is_closed = match self.header.file_format {
            FileFormat::AllAllocations => self.header.end_ms != self.header.start_ms,
            // Each image of ours is whole; only the last one knows when the window ended.
            FileFormat::AggregatedAllocations => self.appendix.as_ref().is_none_or(|it| it.detached_ms != 0),
        };
        self.trailer && is_closed
    }

    /// Ends the records because of what the caller found in the last one.
    #[cold]
    pub fn fail(&mut self, what: &str) {
        self.done = true;
        self.trailer = false;
        self.damage.get_or_insert(Damage {
            offset: self.source.offset(),
            what: what.into(),
        });
    }

    /// The next record; the trailer is one. `None` from the end on.
    #[inline]
    pub fn next_record(&mut self) -> Option<RawRecord<'_>> {
        if self.done {
            return None;
        }
        self.source.fill(HEAD_BYTES);
        let available = self.source.available().len();
        if available == 0 {
            self.end();
            return None;
        }
        let head = self.source.head()[0];
        let result = if self.header.file_format == FileFormat::AggregatedAllocations {
            return self.next_aggregated(head);
        } else if head & token::ALLOCATION != 0 {
            self.allocation(head, available)
        } else if head & token::FRAME_PUSH != 0 {
            self.frame_push(head, available)
        } else if head & token::OBJECT != 0 {
            self.object(head, available)
        } else if head & token::FRAME_POP != 0 {
            self.source.advance(1);
            Ok(RawRecord::FramePop {
                count: u32::from(head & 0x0f) + 1,
            })
        } else {
            return self.next_rare(head);
        };
        match result {
            Ok(record) => Some(record),
            Err(fault) => {
                self.stop(fault);
                None
            }
        }
    }

    /// No bytes are left where a record would begin.
    #[cold]
    fn end(&mut self) {
        self.done = true;
        self.damage = self.source.fault().map(|what| Damage {
            offset: self.source.offset(),
            what: what.into(),
        });
        self.read_last_appendix();
    }

    #[cold]
    fn read_last_appendix(&mut self) {
        if let Some(appendix) = self.source.last_appendix() {
            self.appendix = Some(appendix);
        }
    }

    #[cold]
    fn stop(&mut self, fault: Fault) {
        self.done = true;
        let what = match fault {
            Fault::Cut => self.source.fault().unwrap_or("the file ends inside a record"),
            Fault::Bad(what) => what,
        };
        self.damage = Some(Damage {
            offset: self.source.offset(),
            what: what.into(),
        });
    }

    #[inline]
    fn allocation(&mut self, token: u8, available: usize) -> Result<RawRecord<'static>, Fault> {
        let mut fields = Fields::new(self.source.head(), 1);
        let address = self.addresses.take(usize::from(token >> 3 & 0x0f), &mut fields)?;
        let in_token = token & 7;
        let allocator = if in_token != 0 { in_token } else { fields.byte() };
        let (mut size, mut native_frame) = (0, 0);
        match allocator {
            1 | 5 => {}
            1..=15 => {
                if self.header.native_traces {
                    self.last_native_frame = self.last_native_frame.wrapping_add(fields.signed()? as u64);
                    native_frame = self.last_native_frame;
                }
                size = fields.varint()?;
            }
            // Past the content's end the head is zero.
            _ if fields.at > available => return Err(Fault::Cut),
            _ => return Err(Fault::Bad("an allocation by an unknown allocator")),
        }
        let length = fields.length(available)?;
        self.source.advance(length);
        Ok(RawRecord::Allocation {
            address,
            size,
            allocator,
            native_frame,
        })
    }

    #[inline]
    fn frame_push(&mut self, token: u8, available: usize) -> Result<RawRecord<'static>, Fault> {
        let mut fields = Fields::new(self.source.head(), 1);
        let frame = fields.frame(token & 1 != 0)?;
        let length = fields.length(available)?;
        self.source.advance(length);
        Ok(RawRecord::FramePush(frame))
    }

    fn object(&mut self, token: u8, available: usize) -> Result<RawRecord<'static>, Fault> {
        let mut fields = Fields::new(self.source.head(), 1);
        let address = self.addresses.take(usize::from(token >> 1 & 0x0f), &mut fields)?;
        let is_created = token & 1 != 0;
        let mut native_frame = 0;
        if self.header.native_traces && is_created {
            self.last_native_frame = self.last_native_frame.wrapping_add(fields.signed()? as u64);
            native_frame = self.last_native_frame;
        }
        let length = fields.length(available)?;
        self.source.advance(length);
        Ok(RawRecord::Object {
            address,
            is_created,
            native_frame,
        })
    }

    fn end_at_trailer(&mut self) -> RawRecord<'static> {
        self.done = true;
        self.trailer = true;
        self.source.advance(1);
        self.read_last_appendix();
        RawRecord::Trailer
    }

    /// Tokens without flags.
    #[cold]
    fn next_rare(&mut self, token: u8) -> Option<RawRecord<'_>> {
        let record = match token {
            token::TRAILER => return Some(self.end_at_trailer()),
            token::MEMORY => self.fixed(|fields, reader| {
                let (rss_bytes, elapsed_ms) = (fields.varint()?, fields.varint()?);
                let time_ms = reader.header.start_ms.wrapping_add(elapsed_ms as i64);
                Ok(RawRecord::Memory { rss_bytes, time_ms })
            }),
            _ => return self.next_common(token),
        };
        self.deliver_fixed(record)
    }

    /// Tokens that only aggregated files have.
    #[cold]
    fn next_aggregated(&mut self, token: u8) -> Option<RawRecord<'_>> {
        use token::aggregated;
        let record = match token {
            aggregated::TRAILER => return Some(self.end_at_trailer()),
            aggregated::MEMORY_SNAPSHOT => self.fixed(|fields, _| {
                let (time_ms, rss_bytes, heap_bytes) = (fields.word(), fields.word(), fields.word());
                Ok(RawRecord::MemorySnapshot {
                    time_ms,
                    rss_bytes,
                    heap_bytes,
                })
            }),
            aggregated::ALLOCATION => self.fixed(|fields, _| {
                let tid = fields.word();
                // A C struct as it lies in memory: one byte, seven of padding.
                let allocator = fields.word() as u8;
                if header::allocator_name(allocator).is_none() {
                    return Err(Fault::Bad("an allocation by an unknown allocator"));
                }
                Ok(RawRecord::Aggregated(AggregatedAllocation {
                    tid,
                    allocator,
                    native_frame: fields.word(),
                    python_trace: fields.word(),
                    native_segment_generation: fields.word(),
                    high_water_mark_count: fields.word(),
                    leaked_count: fields.word(),
                    high_water_mark_bytes: fields.word(),
                    leaked_bytes: fields.word(),
                }))
            }),
            aggregated::PYTHON_TRACE => self.fixed(|fields, _| {
                Ok(RawRecord::PythonTrace {
                    frame_id: fields.varint()?,
                    parent: fields.varint()?,
                })
            }),
            aggregated::PYTHON_FRAME => self.fixed(|fields, _| {
                let frame_id = fields.varint()?;
                let mut frame = fields.frame(false)?;
                frame.is_entry = fields.byte() != 0;
                Ok(RawRecord::PythonFrame { frame_id, frame })
            }),
            aggregated::SURVIVING_OBJECT => self.fixed(|fields, reader| {
                let address = fields.varint()? << 3;
                let native_frame = if reader.header.native_traces {
                    fields.varint()?
                } else {
                    0
                };
                Ok(RawRecord::SurvivingObject { address, native_frame })
            }),
            _ => return self.next_common(token),
        };
        self.deliver_fixed(record)
    }

    /// Tokens that both kinds of file have and write alike.
    fn next_common(&mut self, token: u8) -> Option<RawRecord<'_>> {
        let record = match token {
            token::NATIVE_FRAME => self.fixed(|fields, reader| {
                reader.last_ip = reader.last_ip.wrapping_add(fields.signed()? as u64);
                reader.last_native_frame = reader.last_native_frame.wrapping_add(fields.signed()? as u64);
                Ok(RawRecord::NativeFrame {
                    ip: reader.last_ip,
                    parent: reader.last_native_frame,
                })
            }),
            token::FILLER if self.source.only_zeroes_are_left() => {
                self.end();
                return None;
            }
            token::MEMORY_MAP_START => self.fixed(|_, _| Ok(RawRecord::MemoryMapStart)),
            token::SEGMENT => self.fixed(|fields, _| {
                Ok(RawRecord::Segment {
                    vaddr: fields.word(),
                    memory_bytes: fields.varint()?,
                })
            }),
            token::CONTEXT_SWITCH => self.fixed(|fields, _| Ok(RawRecord::ContextSwitch { tid: fields.word() })),
            token::THREAD | token::SEGMENT_HEADER | token::CODE_OBJECT => {
                let layout = match self.text_layout(token) {
                    Ok(layout) => layout,
                    Err(fault) => {
                        self.stop(fault);
                        return None;
                    }
                };
                return Some(self.deliver_text(token, layout));
            }
            _ => Err(Fault::Bad("an unknown kind of record")),
        };
        self.deliver_fixed(record)
    }

    /// Decodes a record that lies within the head; returns it with its length.
    fn fixed(
        &mut self,
        decode: impl FnOnce(&mut Fields<'_>, &mut Self) -> Result<RawRecord<'static>, Fault>,
    ) -> Result<(RawRecord<'static>, usize), Fault> {
        let head = *self.source.head();
        let mut fields = Fields::new(&head, 1);
        let record = decode(&mut fields, self)?;
        Ok((record, fields.length(self.source.available().len())?))
    }

    fn deliver_fixed(&mut self, record: Result<(RawRecord<'static>, usize), Fault>) -> Option<RawRecord<'_>> {
        match record {
            Ok((record, length)) => {
                self.source.advance(length);
                Some(record)
            }
            Err(fault) => {
                self.stop(fault);
                None
            }
        }
    }

    /// Finds the parts of a record that holds strings, and has all of it available.
    fn text_layout(&mut self, token: u8) -> Result<TextLayout, Fault> {
        let mut layout = TextLayout::default();
        let mut at = 1;
        if token == token::CODE_OBJECT {
            layout.numbers[0] = self.number(&mut at)?;
        }
        layout.text_start = at;
        layout.text_end = find_nul(&mut self.source, at)?;
        at = layout.text_end + 1;
        match token {
            token::CODE_OBJECT => {
                layout.second_end = find_nul(&mut self.source, at)?;
                at = layout.second_end + 1;
                let delta = unzigzag(self.number(&mut at)?);
                self.last_firstlineno = self.last_firstlineno.wrapping_add(delta as i32);
                let table_bytes = self.number(&mut at)?;
                if table_bytes > LINETABLE_BYTES_MAX as u64 {
                    return Err(Fault::Bad("a line table of impossible length"));
                }
                layout.table_start = at;
                at += table_bytes as usize;
            }
            token::SEGMENT_HEADER => {
                layout.numbers[0] = self.number(&mut at)?;
                self.source.fill(at + 8);
                layout.numbers[1] = Fields::new(self.source.head_at(at), 0).word();
                at += 8;
            }
            _ => {}
        }
        self.source.fill(at);
        if self.source.available().len() < at {
            return Err(Fault::Cut);
        }
        layout.length = at;
        Ok(layout)
    }

    fn deliver_text(&mut self, token: u8, layout: TextLayout) -> RawRecord<'_> {
        self.source.advance(layout.length);
        let bytes = self.source.passed(layout.length);
        let text = &bytes[layout.text_start..layout.text_end];
        match token {
            token::CODE_OBJECT => RawRecord::CodeObject {
                code_id: layout.numbers[0],
                name: text,
                filename: &bytes[layout.text_end + 1..layout.second_end],
                firstlineno: self.last_firstlineno,
                linetable: &bytes[layout.table_start..],
            },
            token::SEGMENT_HEADER => RawRecord::SegmentHeader {
                filename: text,
                segments_count: layout.numbers[0],
                address: layout.numbers[1],
            },
            _ => RawRecord::Thread { name: text },
        }
    }

    /// The integer `at` bytes into the record; moves `at` behind it.
    fn number(&mut self, at: &mut usize) -> Result<u64, Fault> {
        self.source.fill(*at + VARINT_BYTES_MAX);
        let mut fields = Fields::new(self.source.head_at(*at), 0);
        let value = fields.varint()?;
        *at += fields.at;
        Ok(value)
    }
}

/// Longest header that is read, in bytes.
const HEADER_BYTES_MAX: usize = 64 << 20;

fn read_header(source: &mut Source) -> Result<Header, ReadError> {
    let not_a_capture = |why| ReadError::NotACapture { why };
    let mut wanted_bytes = 4096;
    loop {
        source.fill(wanted_bytes);
        match Header::decode(source.available()) {
            Ok((header, length)) => {
                source.advance(length);
                return Ok(header);
            }
            Err(HeaderFault::Version(found)) => {
                return Err(ReadError::Version { found });
            }
            Err(HeaderFault::Bad(why)) => return Err(not_a_capture(why)),
            Err(HeaderFault::Cut) if source.ended() => return Err(not_a_capture("it ends inside the header")),
            Err(HeaderFault::Cut) if wanted_bytes >= HEADER_BYTES_MAX => {
                return Err(not_a_capture("its header does not end"));
            }
            Err(HeaderFault::Cut) => wanted_bytes = source.available().len() * 2,
        }
    }
}

/// Where the parts of a record with strings are, counted from its token.
#[derive(Default)]
struct TextLayout {
    numbers: [u64; 2],
    text_start: usize,
    text_end: usize,
    second_end: usize,
    table_start: usize,
    length: usize,
}

/// Offset of the first NUL from `start` on, both counted from the source's position.
fn find_nul(source: &mut Source, start: usize) -> Result<usize, Fault> {
    let mut searched = start;
    loop {
        let available = source.available();
        if let Some(found) = available
            .get(searched..)
            .and_then(|rest| rest.iter().position(|&byte| byte == 0))
        {
            return Ok(searched + found);
        }
        searched = searched.max(available.len());
        if source.ended() {
            return Err(Fault::Cut);
        }
        if searched - start >= STRING_BYTES_MAX {
            return Err(Fault::Bad("a string that does not end"));
        }
        source.fill(searched + 1);
    }
}
