//! A second decoder of segments, as simple as can be: what the log finds is compared with what this finds.

/// The records of the valid frames from the start on.
pub fn records(file: &[u8], first: u64) -> Vec<Vec<u8>> {
    let salt = &file[40..56];
    let mut rest = &file[4096.min(file.len())..];
    let mut records = Vec::new();
    while let Some((frame, bytes)) = frame(rest, salt, first + records.len() as u64) {
        records.extend(frame);
        rest = &rest[bytes..];
    }
    records
}

/// The records of the frame that `bytes` begin with, and its length.
fn frame(bytes: &[u8], salt: &[u8], first: u64) -> Option<(Vec<Vec<u8>>, usize)> {
    let header = bytes.get(..32)?;
    let count = number(header, 12);
    let payload = bytes.get(32..)?.get(..number(header, 8) as usize)?;
    let valid = header[..4] == [0xD7, b'W', b'F', b'\n']
        && header[4..8] == salt[..4]
        && header[16..24] == first.to_le_bytes()
        // The planted mistake is to forget this.
        && (number(header, 24) == crc(salt, payload) || crate::planted())
        && number(header, 28) == crc(salt, &header[..28]);
    if !valid || count == 0 {
        return None;
    }
    let mut rest = payload;
    let mut records = Vec::new();
    for _ in 0..count {
        let length = number(rest.get(..4)?, 0) as usize;
        records.push(rest[4..].get(..length)?.to_vec());
        rest = &rest[4 + length..];
    }
    rest.is_empty().then_some((records, 32 + payload.len()))
}

/// What a frame with this payload looks like.
pub fn seal(salt: &[u8], payload: &[u8], count: u32, first: u64) -> Vec<u8> {
    let mut frame = vec![0xD7, b'W', b'F', b'\n'];
    frame.extend_from_slice(&salt[..4]);
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(count.to_le_bytes());
    frame.extend(first.to_le_bytes());
    frame.extend(crc(salt, payload).to_le_bytes());
    frame.extend(crc(salt, &frame).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn crc(salt: &[u8], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(salt), bytes)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
