//! An image's `.eh_frame`: how its functions' callers are found.

use super::modules::Module;
use super::process::Process;

/// Longest section that is read.
const SECTION_BYTES_MAX: u64 = 512 << 20;
/// `DW_EH_PE_pcrel | DW_EH_PE_sdata4` and `DW_EH_PE_absptr`: how the section's address is written.
const RELATIVE: u8 = 0x1b;
const ABSOLUTE: u8 = 0x00;

/// `.eh_frame` as it lies in the image.
pub struct FrameTable {
    /// Its address in the file, to which the functions' addresses in it are relative.
    pub address: u64,
    /// From its start to the end of its segment.
    pub bytes: Vec<u8>,
}

impl Module {
    /// Reads `.eh_frame` from the file that is mapped, or from memory; `None` if there is none.
    pub fn frame_table(&self, process: &Process) -> Option<FrameTable> {
        if self.frame_header == 0 {
            return None;
        }
        let mut header = [0; 12];
        self.read_table(process, self.frame_header, &mut header)?;
        let [version, encoding, ..] = header;
        let field = self.frame_header.wrapping_add(4);
        let address = match (version, encoding) {
            (1, RELATIVE) => {
                let distance = i32::from_le_bytes(header[4..8].try_into().ok()?);
                field.wrapping_add_signed(distance.into())
            }
            (1, ABSOLUTE) => u64::from_le_bytes(header[4..12].try_into().ok()?).wrapping_add(self.bias),
            _ => return None,
        };
        let bytes = self.constant_bytes_from(address).min(SECTION_BYTES_MAX);
        let bytes = self.read_table_vec(process, address, bytes as usize)?;
        Some(FrameTable {
            address: address.wrapping_sub(self.bias),
            bytes,
        })
    }
}
