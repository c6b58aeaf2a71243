//! What a capture holds behind the end that upstream's reader sees.

use serde_json::Value;

const MARK: &[u8] = b"memrayAX";

/// The appendix of a closed capture.
pub fn read(capture: &str) -> Value {
    let bytes = std::fs::read(capture).expect("read the capture");
    let front = bytes.strip_suffix(MARK).expect("a capture that was closed");
    let (front, length) = front.split_at(front.len() - 4);
    let payload_bytes = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    let frame = &bytes[bytes.len() - payload_bytes..];
    let json = &frame[MARK.len() + 4..payload_bytes - MARK.len() - 4];
    assert!(front.len() >= json.len());
    serde_json::from_slice(json).expect("JSON")
}
