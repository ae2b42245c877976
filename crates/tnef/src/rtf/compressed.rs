//! Compressed RTF ([MS-OXRTFCP]): LZ77 over a window of 4096 bytes that begins with common RTF.

use crate::cursor::Cursor;

const WINDOW: usize = 4096;

/// What the window holds in the beginning ([MS-OXRTFCP] 2.1.2.1).
const PRELOADED: &[u8; 207] = b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";

const COMPRESSED: u32 = 0x7546_5a4c; // "LZFu"
const UNCOMPRESSED: u32 = 0x414c_454d; // "MELA"

/// What came out of a compressed RTF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decompressed {
    /// The RTF, as far as it could be read.
    pub rtf: Vec<u8>,
    /// What was wrong with it: cut off, checksum, longer than allowed.
    pub problem: Option<&'static str>,
}

/// Decompresses at most `max_bytes`.
///
/// # Errors
/// When the header is missing or names a compression that is not known.
pub fn decompress(bytes: &[u8], max_bytes: usize) -> Result<Decompressed, &'static str> {
    let mut cursor = Cursor::new(bytes);
    let header = (|| Some((cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?)))();
    let Some((size, raw_size, kind, checksum)) = header else { return Err("it is cut off") };
    // the size counts the twelve bytes of the header behind it
    let size = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(12);
    let data = cursor.take(size).unwrap_or(cursor.rest());
    let mut problem = (data.len() < size).then_some("it is cut off");
    match kind {
        UNCOMPRESSED => {
            let raw_size = usize::try_from(raw_size).unwrap_or(usize::MAX);
            let kept = data.len().min(raw_size).min(max_bytes);
            if kept == max_bytes && kept < data.len().min(raw_size) {
                problem = problem.or(TOO_LONG);
            } else if data.len() < raw_size {
                problem = problem.or(CUT_OFF);
            }
            Ok(Decompressed { rtf: data[..kept].to_vec(), problem })
        }
        COMPRESSED => {
            if crc(data) != checksum {
                problem = problem.or(Some("its checksum is wrong"));
            }
            let (rtf, unfinished) = inflate(data, max_bytes);
            problem = problem.or(unfinished);
            Ok(Decompressed { rtf, problem })
        }
        _ => Err("its compression is not known"),
    }
}

const CUT_OFF: Option<&str> = Some("it is cut off");
const TOO_LONG: Option<&str> = Some("it is longer than what is read of it");

/// What the tokens stand for, and why there is no more of it when the mark of the end was not reached.
fn inflate(data: &[u8], max_bytes: usize) -> (Vec<u8>, Option<&'static str>) {
    let mut window = [0_u8; WINDOW];
    window[..PRELOADED.len()].copy_from_slice(PRELOADED);
    let mut write = PRELOADED.len();
    let mut out = Vec::with_capacity(data.len().saturating_mul(2).min(max_bytes));
    let mut cursor = Cursor::new(data);
    while let Some(control) = cursor.u8() {
        for bit in 0..8 {
            if control & (1 << bit) == 0 {
                let Some(literal) = cursor.u8() else { return (out, CUT_OFF) };
                if out.len() >= max_bytes {
                    return (out, TOO_LONG);
                }
                out.push(literal);
                window[write] = literal;
                write = (write + 1) % WINDOW;
            } else {
                let (Some(high), Some(low)) = (cursor.u8(), cursor.u8()) else { return (out, CUT_OFF) };
                let reference = usize::from(high) << 8 | usize::from(low);
                let (mut read, length) = (reference >> 4, (reference & 0xf) + 2);
                if read == write {
                    return (out, None);
                }
                if out.len() + length > max_bytes {
                    return (out, TOO_LONG);
                }
                for _ in 0..length {
                    let byte = window[read];
                    out.push(byte);
                    window[write] = byte;
                    read = (read + 1) % WINDOW;
                    write = (write + 1) % WINDOW;
                }
            }
        }
    }
    (out, CUT_OFF)
}

/// The usual CRC-32 polynomial, but begun with zero and not inverted ([MS-OXRTFCP] 2.1.3.2).
fn crc(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let mut value = n as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[n] = value;
            n += 1;
        }
        table
    };
    data.iter().fold(0, |crc, &b| TABLE[usize::from((crc as u8) ^ b)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of [MS-OXRTFCP] 4.1 and 4.2.
    #[test]
    fn published_examples() {
        let simple = [
            0x2d, 0, 0, 0, 0x2b, 0, 0, 0, 0x4c, 0x5a, 0x46, 0x75, 0xf1, 0xc5, 0xc7, 0xa7, 0x03, 0, 0x0a, 0,
            0x72, 0x63, 0x70, 0x67, 0x31, 0x32, 0x35, 0x42, 0x32, 0x0a, 0xf3, 0x20, 0x68, 0x65, 0x6c, 0x09,
            0, 0x20, 0x62, 0x77, 0x05, 0xb0, 0x6c, 0x64, 0x7d, 0x0a, 0x80, 0x0f, 0xa0,
        ];
        let found = decompress(&simple, 1000).unwrap();
        assert_eq!(found.rtf, b"{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n");
        assert_eq!(found.problem, None);
        let crossing = [
            0x1a, 0, 0, 0, 0x1c, 0, 0, 0, 0x4c, 0x5a, 0x46, 0x75, 0xe2, 0xd4, 0x4b, 0x51, 0x41, 0, 0x04,
            0x20, 0x57, 0x58, 0x59, 0x5a, 0x0d, 0x6e, 0x7d, 0x01, 0x0e, 0xb0,
        ];
        let found = decompress(&crossing, 1000).unwrap();
        assert_eq!((found.rtf.as_slice(), found.problem), (&b"{\\rtf1 WXYZWXYZWXYZWXYZWXYZ}"[..], None));

        // cut off, tampered with, too long
        assert_eq!(decompress(&simple[..10], 1000), Err("it is cut off"));
        let found = decompress(&simple[..30], 1000).unwrap();
        assert_eq!((found.rtf.starts_with(b"{\\rtf1\\ansi"), found.problem), (true, Some("it is cut off")));
        let mut wrong = simple;
        wrong[34] = b'J';
        let found = decompress(&wrong, 1000).unwrap();
        assert_eq!(found.problem, Some("its checksum is wrong"));
        let found = decompress(&simple, 7).unwrap();
        assert!(found.rtf.len() <= 7);
        assert_eq!(found.problem, Some("it is longer than what is read of it"));
    }

    #[test]
    fn uncompressed() {
        let bytes = [&[0x12, 0, 0, 0, 6, 0, 0, 0][..], b"MELA", &[0; 4], b"{\\rtf}"].concat();
        let found = decompress(&bytes, 1000).unwrap();
        assert_eq!((found.rtf.as_slice(), found.problem), (&b"{\\rtf}"[..], None));
        assert_eq!(decompress(&bytes, 3).unwrap().problem, Some("it is longer than what is read of it"));
        assert_eq!(decompress(&bytes[..18], 9).unwrap().problem, Some("it is cut off"));
        assert!(decompress(&[0; 16], 9).is_err());
    }
}
