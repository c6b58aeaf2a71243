//! The file header: fields one after another, no padding, strings ended by NUL.

use std::fmt;

use super::token::{PATH_ENTRIES_MAX, STRING_BYTES_MAX};

/// First bytes of a capture, before compression.
pub const MAGIC: [u8; 7] = *b"memray\0";

/// Upstream 1.20. Version 12 (upstream 1.19) lacks the three search-path fields and is otherwise the same.
pub const VERSION: u32 = 13;
pub const VERSION_WITHOUT_PATHS: u32 = 12;

/// Where the patched fields lie: allocations_count, frames_count, start_ms, end_ms; 8 bytes each.
pub const STATS_OFFSET: u64 = 17;

/// What upstream puts before the records. Times are milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 13 or 12.
    pub version: u32,
    /// `PY_VERSION_HEX` of the interpreter; it chooses the format of the line tables.
    pub python_version: u32,
    pub native_traces: bool,
    pub file_format: FileFormat,
    /// Allocation records, frees included. 0 in a capture that was never closed, and in aggregated ones.
    pub allocations_count: u64,
    /// Always 0 in upstream's files.
    pub frames_count: u64,
    pub start_ms: i64,
    pub end_ms: i64,
    pub command_line: String,
    pub pid: i32,
    /// The thread id, as used in records, of the main thread.
    pub main_tid: u64,
    /// Outermost frames of the main thread that reports leave out.
    pub skipped_frames_on_main_tid: u64,
    /// See [`python_allocator_name`].
    pub python_allocator: u8,
    pub trace_python_allocators: bool,
    pub track_object_lifetimes: bool,
    /// `sysconfig`'s standard library directory; empty where unknown, and in version 12.
    pub libdest: String,
    pub site_packages: Vec<String>,
    pub sys_path: Vec<String>,
}

/// What the records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// Every allocation and free, in order.
    AllAllocations = 0,
    /// One record for each place that allocated.
    AggregatedAllocations = 1,
}

impl FileFormat {
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::AllAllocations),
            1 => Some(Self::AggregatedAllocations),
            _ => None,
        }
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllAllocations => "ALL_ALLOCATIONS",
            Self::AggregatedAllocations => "AGGREGATED_ALLOCATIONS",
        })
    }
}

/// Name of [`Header::python_allocator`]; ids from upstream's `records.h`.
pub const fn python_allocator_name(id: u8) -> Option<&'static str> {
    Some(match id {
        1 => "pymalloc",
        2 => "pymalloc debug",
        3 => "malloc",
        4 => "other",
        5 => "mimalloc",
        6 => "mimalloc debug",
        _ => return None,
    })
}

/// Name of an allocator id, as upstream prints it in records.
pub const fn allocator_name(id: u8) -> Option<&'static str> {
    Some(match id {
        1 => "pymalloc_free",
        2 => "pymalloc_malloc",
        3 => "pymalloc_calloc",
        4 => "pymalloc_realloc",
        5 => "free",
        6 => "malloc",
        7 => "realloc",
        8 => "calloc",
        9 => "posix_memalign",
        10 => "aligned_alloc",
        11 => "memalign",
        12 => "valloc",
        13 => "pvalloc",
        14 => "mmap",
        15 => "munmap",
        _ => return None,
    })
}

impl Header {
    /// Whether this version has the three search-path fields.
    pub fn has_paths(&self) -> bool {
        self.version != VERSION_WITHOUT_PATHS
    }

    /// The header's bytes. Strings end at their first NUL, empty paths are left out: the format has neither.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.python_version.to_le_bytes());
        out.push(self.native_traces.into());
        out.push(self.file_format as u8);
        out.extend_from_slice(&self.encode_stats());
        put_cstr(&mut out, &self.command_line);
        out.extend_from_slice(&self.pid.to_le_bytes());
        out.extend_from_slice(&self.main_tid.to_le_bytes());
        out.extend_from_slice(&self.skipped_frames_on_main_tid.to_le_bytes());
        out.push(self.python_allocator);
        out.push(self.trace_python_allocators.into());
        out.push(self.track_object_lifetimes.into());
        if self.has_paths() {
            put_cstr(&mut out, &self.libdest);
            for paths in [&self.site_packages, &self.sys_path] {
                let named = paths.iter().filter(|path| !path.is_empty() && !path.starts_with('\0'));
                for path in named.take(PATH_ENTRIES_MAX) {
                    put_cstr(&mut out, path);
                }
                out.push(0);
            }
        }
        out
    }

    /// The 32 bytes at [`STATS_OFFSET`], the only ones that change when a capture is closed.
    pub fn encode_stats(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..8].copy_from_slice(&self.allocations_count.to_le_bytes());
        out[8..16].copy_from_slice(&self.frames_count.to_le_bytes());
        out[16..24].copy_from_slice(&self.start_ms.to_le_bytes());
        out[24..].copy_from_slice(&self.end_ms.to_le_bytes());
        out
    }
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// It may go on behind these bytes.
    Cut,
    Bad(&'static str),
    Version(u32),
}

impl Header {
    /// The header at the start of `bytes`, and its length.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), HeaderFault> {
        let mut fields = HeaderFields { rest: bytes };
        if fields.array::<7>()? != MAGIC {
            return Err(HeaderFault::Bad("it does not begin with memray's magic"));
        }
        let version = fields.u32()?;
        if version != VERSION && version != VERSION_WITHOUT_PATHS {
            return Err(HeaderFault::Version(version));
        }
        let python_version = fields.u32()?;
        let native_traces = fields.flag()?;
        let [file_format] = fields.array()?;
        let file_format = FileFormat::from_id(file_format).ok_or(HeaderFault::Bad("an unknown kind of capture"))?;
        let mut header = Self {
            version,
            python_version,
            native_traces,
            file_format,
            allocations_count: fields.u64()?,
            frames_count: fields.u64()?,
            start_ms: fields.u64()? as i64,
            end_ms: fields.u64()? as i64,
            command_line: fields.string()?,
            pid: fields.u32()? as i32,
            main_tid: fields.u64()?,
            skipped_frames_on_main_tid: fields.u64()?,
            python_allocator: fields.array::<1>()?[0],
            trace_python_allocators: fields.flag()?,
            track_object_lifetimes: fields.flag()?,
            libdest: String::new(),
            site_packages: Vec::new(),
            sys_path: Vec::new(),
        };
        if header.has_paths() {
            header.libdest = fields.string()?;
            header.site_packages = fields.paths()?;
            header.sys_path = fields.paths()?;
        }
        Ok((header, bytes.len() - fields.rest.len()))
    }
}

struct HeaderFields<'a> {
    rest: &'a [u8],
}

impl HeaderFields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderFault> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(HeaderFault::Cut)?;
        self.rest = rest;
        Ok(*array)
    }

    fn u32(&mut self) -> Result<u32, HeaderFault> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, HeaderFault> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, HeaderFault> {
        self.array().map(|[byte]| byte != 0)
    }

    fn string(&mut self) -> Result<String, HeaderFault> {
        let end = self.rest.iter().take(STRING_BYTES_MAX + 1).position(|&byte| byte == 0);
        let Some(end) = end else {
            let too_long = self.rest.len() > STRING_BYTES_MAX;
            return Err(if too_long {
                HeaderFault::Bad("a string that does not end")
            } else {
                HeaderFault::Cut
            });
        };
        let text = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// Strings up to an empty one.
    fn paths(&mut self) -> Result<Vec<String>, HeaderFault> {
        let mut paths = Vec::new();
        loop {
            let path = self.string()?;
            if path.is_empty() {
                return Ok(paths);
            }
            if paths.len() >= PATH_ENTRIES_MAX {
                return Err(HeaderFault::Bad("a list of paths that does not end"));
            }
            paths.push(path);
        }
    }
}

/// Appends `text` up to its first NUL or [`STRING_BYTES_MAX`], and a NUL.
pub fn put_cstr(out: &mut Vec<u8>, text: &str) {
    let end = text.bytes().take(STRING_BYTES_MAX - 1).position(|byte| byte == 0);
    let mut end = end.unwrap_or(text.len().min(STRING_BYTES_MAX - 1));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&text.as_bytes()[..end]);
    out.push(0);
}
