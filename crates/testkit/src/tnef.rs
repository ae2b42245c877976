//! A writer of TNEF streams ([MS-OXTNEF]) and of compressed RTF ([MS-OXRTFCP]).
//!
//! It writes whatever it is told, also what no mail program would: a property of any type, a checksum that is wrong.

/// Attribute ids (type and name, [MS-OXTNEF] 2.1.3.3).
pub mod attribute {
    #![allow(missing_docs)] // the names of the specification
    pub const FROM: u32 = 0x0000_8000;
    pub const SUBJECT: u32 = 0x0001_8004;
    pub const MESSAGE_ID: u32 = 0x0001_8009;
    pub const ATTACH_TITLE: u32 = 0x0001_8010;
    pub const BODY: u32 = 0x0002_800c;
    pub const DATE_SENT: u32 = 0x0003_8005;
    pub const ATTACH_DATA: u32 = 0x0006_800f;
    pub const ATTACH_RENDERING: u32 = 0x0006_9002;
    pub const MESSAGE_PROPERTIES: u32 = 0x0006_9003;
    pub const RECIPIENTS: u32 = 0x0006_9004;
    pub const ATTACHMENT_PROPERTIES: u32 = 0x0006_9005;
    pub const OEM_CODE_PAGE: u32 = 0x0006_9007;
    pub const VERSION: u32 = 0x0008_9006;
    pub const MESSAGE_CLASS: u32 = 0x0007_8008;
}

/// The interface id of an attached message.
pub const IID_MESSAGE: [u8; 16] = [0x07, 0x03, 0x02, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0x46];
/// The interface id of an OLE object.
pub const IID_STORAGE: [u8; 16] = [0x0b, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0x46];

/// A stream under construction.
#[derive(Debug, Clone)]
pub struct Stream(Vec<u8>);

impl Stream {
    /// Begins with signature, key, version and code page.
    #[must_use]
    pub fn new(code_page: u32) -> Self {
        let mut bytes = 0x223e_9f78_u32.to_le_bytes().to_vec();
        bytes.extend([0x34, 0x12]);
        let pages = [code_page.to_le_bytes(), [0; 4]].concat();
        Self(bytes)
            .message(attribute::VERSION, &0x0001_0000_u32.to_le_bytes())
            .message(attribute::OEM_CODE_PAGE, &pages)
    }

    /// An attribute of the message.
    #[must_use]
    pub fn message(self, id: u32, data: &[u8]) -> Self {
        self.attribute(1, id, data)
    }

    /// An attribute of the attachment.
    #[must_use]
    pub fn attachment(self, id: u32, data: &[u8]) -> Self {
        self.attribute(2, id, data)
    }

    /// Begins an attachment that is a file.
    #[must_use]
    pub fn file(self, title: &str, data: &[u8], properties: Properties) -> Self {
        self.attachment(attribute::ATTACH_RENDERING, &[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0])
            .attachment(attribute::ATTACH_TITLE, &[title.as_bytes(), b"\0"].concat())
            .attachment(attribute::ATTACH_DATA, data)
            .attachment(attribute::ATTACHMENT_PROPERTIES, &properties.list())
    }

    /// An attached message, itself a stream.
    #[must_use]
    pub fn embedded(self, title: &str, inner: &[u8]) -> Self {
        let properties =
            Properties::default().long(0x3705, 5).narrow(0x3001, title).object(0x3701, IID_MESSAGE, inner);
        self.attachment(attribute::ATTACH_RENDERING, &[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0])
            .attachment(attribute::ATTACH_TITLE, &[title.as_bytes(), b"\0"].concat())
            .attachment(attribute::ATTACHMENT_PROPERTIES, &properties.list())
    }

    fn attribute(mut self, level: u8, id: u32, data: &[u8]) -> Self {
        self.0.push(level);
        self.0.extend(id.to_le_bytes());
        self.0.extend(u32::try_from(data.len()).expect("shorter than 4 GB").to_le_bytes());
        self.0.extend(data);
        let sum = data.iter().fold(0_u16, |sum, &b| sum.wrapping_add(u16::from(b)));
        self.0.extend(sum.to_le_bytes());
        self
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The stream.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// MAPI properties of one object.
#[derive(Debug, Clone, Default)]
pub struct Properties {
    count: u32,
    bytes: Vec<u8>,
}

impl Properties {
    /// PT_LONG.
    #[must_use]
    pub fn long(self, id: u16, value: u32) -> Self {
        self.raw(0x0003, id, &value.to_le_bytes())
    }

    /// PT_BOOLEAN: two bytes and two of padding.
    #[must_use]
    pub fn boolean(self, id: u16, value: bool) -> Self {
        self.raw(0x000b, id, &[u8::from(value), 0, 0, 0])
    }

    /// PT_SYSTIME, from seconds since 1970.
    #[must_use]
    pub fn time(self, id: u16, seconds: u64) -> Self {
        self.raw(0x0040, id, &((seconds + 11_644_473_600) * 10_000_000).to_le_bytes())
    }

    /// PT_STRING8.
    #[must_use]
    pub fn narrow(self, id: u16, value: &str) -> Self {
        self.variable(0x001e, id, &[value.as_bytes(), b"\0"].concat())
    }

    /// PT_UNICODE.
    #[must_use]
    pub fn wide(self, id: u16, value: &str) -> Self {
        let units: Vec<u8> = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        self.variable(0x001f, id, &units)
    }

    /// PT_BINARY.
    #[must_use]
    pub fn binary(self, id: u16, value: &[u8]) -> Self {
        self.variable(0x0102, id, value)
    }

    /// PT_OBJECT.
    #[must_use]
    pub fn object(self, id: u16, kind: [u8; 16], value: &[u8]) -> Self {
        self.variable(0x000d, id, &[&kind[..], value].concat())
    }

    /// A named property with a value of PT_UNICODE.
    #[must_use]
    pub fn named(self, name: &str, value: &str) -> Self {
        let units: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let value: Vec<u8> = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let set = [0x86, 3, 2, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0x46];
        let bytes =
            [&set[..], &1_u32.to_le_bytes(), &padded(&units), &1_u32.to_le_bytes(), &padded(&value)].concat();
        self.raw(0x001f, 0x8001, &bytes)
    }

    /// A property of any type with any bytes behind its tag.
    #[must_use]
    pub fn raw(mut self, kind: u16, id: u16, value: &[u8]) -> Self {
        self.count += 1;
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(id.to_le_bytes());
        self.bytes.extend(value);
        self
    }

    fn variable(self, kind: u16, id: u16, value: &[u8]) -> Self {
        self.raw(kind, id, &[&1_u32.to_le_bytes()[..], &padded(value)].concat())
    }

    /// As they stand in an attribute: how many, then each.
    #[must_use]
    pub fn list(&self) -> Vec<u8> {
        [&self.count.to_le_bytes()[..], &self.bytes].concat()
    }
}

/// A table of recipients out of their properties.
#[must_use]
pub fn recipients(rows: &[Properties]) -> Vec<u8> {
    let mut bytes = u32::try_from(rows.len()).expect("few rows").to_le_bytes().to_vec();
    for row in rows {
        bytes.extend(row.list());
    }
    bytes
}

/// The sender in its old form (attFrom).
#[must_use]
pub fn from(name: &str, address: &str) -> Vec<u8> {
    let (name, address) = ([name.as_bytes(), b"\0"].concat(), [address.as_bytes(), b"\0"].concat());
    let size = |n: usize| u16::try_from(n).expect("short").to_le_bytes();
    [
        &[4, 0][..],
        &size(16 + name.len() + address.len()),
        &size(name.len()),
        &size(address.len()),
        &name,
        &address,
        &[0; 8],
    ]
    .concat()
}

/// A length, the bytes, zeros up to a multiple of four.
fn padded(value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("shorter than 4 GB").to_le_bytes();
    let padding = vec![0; value.len().wrapping_neg() % 4];
    [&length[..], value, &padding].concat()
}

/// Compressed RTF: the longest match that the window has, else a literal.
#[must_use]
pub fn compress_rtf(rtf: &[u8]) -> Vec<u8> {
    const PRELOADED: &[u8] = b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";
    let window = [PRELOADED, rtf].concat();
    let begin = PRELOADED.len();
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut at = begin;
    let reference = |from: usize, length: usize| {
        u16::try_from((from % 4096) << 4 | length).expect("16 bits").to_be_bytes()
    };
    while at < window.len() {
        let match_at =
            |from: usize| (0..17).take_while(|n| window.get(at + n) == Some(&window[from + n])).count();
        // no match reaches past what was written when it begins, and none is looked for far back
        let best = (at.saturating_sub(500)..at)
            .map(|from| (match_at(from).min(at - from), from))
            .max_by_key(|(length, from)| (*length, *from));
        match best {
            Some((length, from)) if length >= 2 => {
                tokens.push(reference(from, length - 2).to_vec());
                at += length;
            }
            _ => {
                tokens.push(vec![window[at]]);
                at += 1;
            }
        }
    }
    tokens.push(reference(window.len(), 0).to_vec());
    let mut data = Vec::new();
    for group in tokens.chunks(8) {
        let control = group.iter().enumerate().map(|(n, t)| u8::from(t.len() == 2) << n).sum::<u8>();
        data.push(control);
        data.extend(group.concat());
    }
    let size = |n: usize| u32::try_from(n).expect("shorter than 4 GB").to_le_bytes();
    [&size(data.len() + 12)[..], &size(rtf.len()), b"LZFu", &crc(&data).to_le_bytes(), &data].concat()
}

/// The CRC of [MS-OXRTFCP] 2.1.3.2, bit by bit.
fn crc(data: &[u8]) -> u32 {
    data.iter().fold(0, |crc, &b| {
        (0..8)
            .fold(crc ^ u32::from(b), |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    })
}
