//! `/proc/PID/maps`, line by line.

/// One mapping of the tracee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// `r`, `w`, `x`, and `p` or `s`, or `-`.
    pub permissions: [u8; 4],
    pub offset: u64,
    pub device: (u32, u32),
    pub inode: u64,
    /// As the tracee sees it, or a name in brackets, or empty.
    pub path: String,
}

impl Mapping {
    pub fn is_readable(&self) -> bool {
        self.permissions[0] == b'r'
    }

    pub fn is_writable(&self) -> bool {
        self.permissions[1] == b'w'
    }

    pub fn is_executable(&self) -> bool {
        self.permissions[2] == b'x'
    }

    pub fn is_private(&self) -> bool {
        self.permissions[3] == b'p'
    }

    /// Private memory without a file or a name of the kernel's.
    pub fn is_anonymous(&self) -> bool {
        self.is_private() && self.inode == 0 && (self.path.is_empty() || self.path.starts_with("[anon:"))
    }

    /// Parses one line; `None` for what does not look like one.
    pub fn parse(line: &str) -> Option<Self> {
        let mut rest = line;
        let mut field = || {
            rest = rest.trim_start_matches(' ');
            let end = rest.find(' ').unwrap_or(rest.len());
            let (field, after) = rest.split_at(end);
            rest = after;
            field
        };
        let (range, permissions, offset, device, inode) = (field(), field(), field(), field(), field());
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        if start > end {
            return None;
        }
        let (major, minor) = device.split_once(':')?;
        Some(Self {
            start,
            end,
            permissions: permissions.as_bytes().try_into().ok()?,
            offset: u64::from_str_radix(offset, 16).ok()?,
            device: (
                u32::from_str_radix(major, 16).ok()?,
                u32::from_str_radix(minor, 16).ok()?,
            ),
            inode: inode.parse().ok()?,
            // The path is what remains: it may contain spaces.
            path: rest.trim_start_matches(' ').to_owned(),
        })
    }
}

/// All lines of a maps file that could be parsed.
pub fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(Mapping::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_are_kept_whole() {
        let map =
            Mapping::parse("7f00-7f10 r-xp 00001000 fd:01 99                         /a b/li  b.so (deleted)").unwrap();
        assert_eq!(
            (map.start, map.end, map.offset, map.inode),
            (0x7f00, 0x7f10, 0x1000, 99)
        );
        assert_eq!(map.path, "/a b/li  b.so (deleted)");
        assert!(map.is_executable() && !map.is_writable() && !map.is_anonymous());
    }

    #[test]
    fn anonymous_and_odd_lines() {
        let maps = parse("1000-2000 rw-p 00000000 00:00 0 \nnonsense\n3000-4000 rw-p 00000000 00:00 0    [heap]\n");
        assert_eq!(maps.len(), 2);
        assert!(maps[0].is_anonymous());
        assert!(!maps[1].is_anonymous());
    }
}
