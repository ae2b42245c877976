//! What the server asks: CHALLENGE_MESSAGE and the list of its attributes ([MS-NLMP] 2.2.1.2, 2.2.2.1).

/// A challenge all of whose offsets lie within the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// What the server can do; see [`flags`](super::flags).
    pub flags: u32,
    /// The number to answer.
    pub server_challenge: [u8; 8],
    /// The server's attributes, in its order, without the end mark; empty where it sends none.
    pub target_info: Vec<Attribute>,
}

/// One attribute of the server (AV_PAIR).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Which; see the constants.
    pub id: u16,
    /// Its value; at most 65,535 octets.
    pub value: Vec<u8>,
}

impl Attribute {
    /// `MsvAvEOL`: the end of the list.
    pub const END: u16 = 0;
    /// `MsvAvFlags`: bit 1 says that the client's last message has a checksum over all three.
    pub const FLAGS: u16 = 6;
    /// `MsvAvTimestamp`: the server's time (FILETIME).
    pub const TIMESTAMP: u16 = 7;
    /// `MsvAvTargetName`: the service that the client wants to reach.
    pub const TARGET_NAME: u16 = 9;
    /// `MsvAvChannelBindings`: the hash of the TLS channel.
    pub const CHANNEL_BINDINGS: u16 = 10;

    /// The attribute as it stands in a list.
    pub(super) fn write(id: u16, value: &[u8], out: &mut Vec<u8>) {
        // callers give at most what a u16 can count: values of the server, and a host name
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&value[..usize::from(length)]);
    }
}

impl Challenge {
    /// Reads a challenge.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is quoted.
    pub fn parse(message: &[u8]) -> Result<Self, &'static str> {
        if !message.starts_with(super::SIGNATURE) {
            return Err("it is no NTLM message");
        }
        if u32_at(message, 8) != Some(2) {
            return Err("it is another message of NTLM");
        }
        let short = "it is too short";
        // only that it lies within the message: what the server is called does not matter here
        buffer(message, 12, MIN_HEADER)?;
        let flags = u32_at(message, 20).ok_or(short)?;
        let server_challenge = message.get(24..32).and_then(|b| b.try_into().ok()).ok_or(short)?;
        let target_info = match flags & super::flags::TARGET_INFO {
            0 => Vec::new(),
            _ => attributes(buffer(message, 40, HEADER)?)?,
        };
        Ok(Self { flags, server_challenge, target_info })
    }

    /// The server's time as a FILETIME, where it tells it.
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        let found = self.target_info.iter().find(|a| a.id == Attribute::TIMESTAMP)?;
        Some(u64::from_le_bytes(found.value.as_slice().try_into().ok()?))
    }

    /// The server's own `MsvAvFlags`; 0 where it sends none.
    pub(super) fn attribute_flags(&self) -> u32 {
        let found = self.target_info.iter().find(|a| a.id == Attribute::FLAGS);
        found.and_then(|a| a.value.as_slice().try_into().ok()).map_or(0, u32::from_le_bytes)
    }
}

/// Up to the field that old servers leave out, and with it.
const MIN_HEADER: usize = 32;
const HEADER: usize = 48;

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

/// What the length and offset at `at` point to; it must lie behind the fixed part of the message.
fn buffer(message: &[u8], at: usize, header: usize) -> Result<&[u8], &'static str> {
    let field = message.get(at..at + 8).ok_or("it is too short")?;
    let length = usize::from(u16::from_le_bytes([field[0], field[1]]));
    if length == 0 {
        return Ok(&[]);
    }
    let offset = u32_at(field, 4).and_then(|o| usize::try_from(o).ok()).ok_or("it is too short")?;
    if offset < header {
        return Err("one of its offsets points into its header");
    }
    let end = offset.checked_add(length).ok_or("one of its offsets points beyond its end")?;
    message.get(offset..end).ok_or("one of its offsets points beyond its end")
}

/// The list up to its end mark. A list that just ends is taken, too: nothing of it is missing.
fn attributes(mut list: &[u8]) -> Result<Vec<Attribute>, &'static str> {
    let mut found = Vec::new();
    while !list.is_empty() {
        let Some((head, rest)) = list.split_at_checked(4) else {
            return Err("its list of attributes is cut off");
        };
        let id = u16::from_le_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if id == Attribute::END {
            return Ok(found);
        }
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Err("its list of attributes is cut off");
        };
        let wrong_size = match id {
            Attribute::FLAGS => length != 4,
            Attribute::TIMESTAMP => length != 8,
            _ => false,
        };
        if wrong_size {
            return Err("one of its attributes has the wrong size");
        }
        found.push(Attribute { id, value: value.to_vec() });
        list = rest;
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The challenge of [MS-NLMP] 4.2.4.3.
    pub(in crate::ntlm) fn sample() -> Vec<u8> {
        let mut message = b"NTLMSSP\0\x02\0\0\0\x0c\0\x0c\0\x38\0\0\0\x33\x82\x8a\xe2".to_vec();
        message.extend_from_slice(&[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(b"\x24\0\x24\0\x44\0\0\0\x06\0\x70\x17\0\0\0\x0fS\0e\0r\0v\0e\0r\0");
        message.extend_from_slice(b"\x02\0\x0c\0D\0o\0m\0a\0i\0n\0\x01\0\x0c\0S\0e\0r\0v\0e\0r\0\0\0\0\0");
        message
    }

    /// A challenge with these attributes.
    pub(in crate::ntlm) fn with_attributes(flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut list = Vec::new();
        for (id, value) in attributes {
            Attribute::write(*id, value, &mut list);
        }
        Attribute::write(Attribute::END, &[], &mut list);
        let mut message = b"NTLMSSP\0\x02\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        message.extend_from_slice(&flags.to_le_bytes());
        message.extend_from_slice(&[9; 8]);
        message.extend_from_slice(&[0; 8]);
        let length = u16::try_from(list.len()).unwrap().to_le_bytes();
        for _ in 0..2 {
            message.extend_from_slice(&length);
        }
        message.extend_from_slice(&56_u32.to_le_bytes());
        message.extend_from_slice(&[0; 8]);
        message.append(&mut list);
        message
    }

    #[test]
    fn ms_nlmp_4_2_4_3() {
        let challenge = Challenge::parse(&sample()).unwrap();
        assert_eq!(challenge.flags, 0xe28a_8233);
        assert_eq!(challenge.server_challenge, [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        let ids: Vec<_> = challenge.target_info.iter().map(|a| (a.id, a.value.len())).collect();
        assert_eq!(ids, [(2, 12), (1, 12)]);
        assert_eq!((challenge.timestamp(), challenge.attribute_flags()), (None, 0));
    }

    /// Each field of the good message made bad, one at a time.
    #[test]
    fn malformed() {
        let edit = |at: usize, bytes: &[u8]| {
            let mut message = sample();
            message[at..at + bytes.len()].copy_from_slice(bytes);
            message
        };
        for (what, message, why) in [
            ("nothing", Vec::new(), "it is no NTLM message"),
            ("signature", edit(0, b"X"), "it is no NTLM message"),
            ("type", edit(8, &[3]), "it is another message of NTLM"),
            ("only signature and type", sample()[..12].to_vec(), "it is too short"),
            ("before the flags", sample()[..20].to_vec(), "one of its offsets points beyond its end"),
            ("name beyond the end", edit(16, &[0xff, 0xff]), "one of its offsets points beyond its end"),
            ("name far beyond the end", edit(16, &[0xff; 4]), "one of its offsets points beyond its end"),
            ("name in the header", edit(16, &[8]), "one of its offsets points into its header"),
            ("attributes beyond the end", edit(44, &[0x45]), "one of its offsets points beyond its end"),
            ("attributes in the header", edit(44, &[0x10]), "one of its offsets points into its header"),
            ("too many attributes", edit(40, &[0x25]), "one of its offsets points beyond its end"),
            ("an attribute beyond its list", edit(0x46, &[0xff]), "its list of attributes is cut off"),
            ("half an attribute", edit(40, &[0x22]), "its list of attributes is cut off"),
            (
                "a short time",
                with_attributes(!0, &[(7, b"1234567")]),
                "one of its attributes has the wrong size",
            ),
            ("long flags", with_attributes(!0, &[(6, b"12345")]), "one of its attributes has the wrong size"),
        ] {
            assert_eq!(Challenge::parse(&message), Err(why), "{what}");
        }
        // an empty field may point anywhere
        let mut empty = edit(12, &[0, 0]);
        empty[16..20].fill(0xff);
        assert!(Challenge::parse(&empty).is_ok());
        // without the end mark nothing is missing
        assert_eq!(Challenge::parse(&edit(40, &[0x20])), Challenge::parse(&sample()));
        // an old server, without attributes at all
        let old = [&sample()[..12], &[0; 8], &0x0000_8201_u32.to_le_bytes(), &[1; 8]].concat();
        assert_eq!(Challenge::parse(&old).unwrap().target_info, []);
    }

    proptest! {
        #[test]
        fn nothing_panics(mut message in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..80, byte: u8) {
            let _ = Challenge::parse(&message);
            let mut near = sample();
            near[at] = byte;
            near.truncate(sample().len() - message.len() % 8);
            let _ = Challenge::parse(&near);
            message.splice(..0, sample());
            let _ = Challenge::parse(&message);
        }
    }
}
