//! The server's side of NTLMv2, after [MS-NLMP], as strict as a server with Extended Protection: it wants the first message in its 40-octet
//! form, the checksum over all messages, no LM response beside a time, and (where it is told one) the hash of the TLS channel.

use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use md5::{Digest, Md5};

/// What the server knows.
#[derive(Debug, Clone)]
pub struct NtlmServer {
    user: String,
    domain: String,
    password: String,
    server_end_point: Option<Vec<u8>>,
    time: Option<u64>,
    target: Option<String>,
}

/// The keys to sign with, after a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    client: [u8; 16],
    server: [u8; 16],
}

impl Keys {
    /// The client's first signature.
    #[must_use]
    pub fn of_client(&self, message: &[u8]) -> Vec<u8> {
        signature(&self.client, message)
    }

    /// The server's first signature.
    #[must_use]
    pub fn of_server(&self, message: &[u8]) -> Vec<u8> {
        signature(&self.server, message)
    }
}

fn signature(key: &[u8; 16], message: &[u8]) -> Vec<u8> {
    let sum = hmac(key, &[&[0; 4], message]);
    [&[1, 0, 0, 0], &sum[..8], &[0; 4]].concat()
}

impl NtlmServer {
    /// Knows one user, by the name and domain that the client has to send, and its password. Tells a time.
    #[must_use]
    pub fn new(user: &str, domain: &str, password: &str) -> Self {
        Self {
            user: user.to_owned(),
            domain: domain.to_owned(),
            password: password.to_owned(),
            server_end_point: None,
            time: Some(0x01dc_5e00_0000_0000),
            target: None,
        }
    }

    /// Demands the binding to this digest of the certificate.
    #[must_use]
    pub fn with_server_end_point(mut self, digest: Vec<u8>) -> Self {
        self.server_end_point = Some(digest);
        self
    }

    /// Demands that the client wants to reach this service (`smtp/mail.example.com`).
    #[must_use]
    pub fn with_target(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// Tells no time, as servers before Windows Vista.
    #[must_use]
    pub fn without_time(mut self) -> Self {
        self.time = None;
        self
    }

    /// The challenge, always the same.
    #[must_use]
    pub fn challenge(&self) -> Vec<u8> {
        let mut info = Vec::new();
        for (id, text) in [(2_u16, "CONTOSO"), (1, "EXCH"), (4, "contoso.test"), (3, "exch.contoso.test")] {
            attribute(&mut info, id, &utf16(text));
        }
        if let Some(time) = self.time {
            attribute(&mut info, 7, &time.to_le_bytes());
        }
        attribute(&mut info, 0, &[]);
        let name = utf16("CONTOSO");
        let mut message = b"NTLMSSP\0\x02\0\0\0".to_vec();
        field(&mut message, name.len(), 56);
        // all that a client may ask for, but an exchanged key, which would have to be unlocked with RC4
        message.extend(0xa28a_8215_u32.to_le_bytes());
        message.extend(b"\x01\x23\x45\x67\x89\xab\xcd\xef\0\0\0\0\0\0\0\0");
        field(&mut message, info.len(), 56 + name.len());
        message.extend(b"\x0a\0\x63\x45\0\0\0\x0f");
        message.extend(name);
        message.extend(info);
        message
    }

    /// Judges the client's two messages.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn accept(&self, negotiate: &[u8], authenticate: &[u8]) -> Result<Keys, String> {
        if negotiate.len() < 40 || !negotiate.starts_with(b"NTLMSSP\0\x01\0\0\0") {
            return Err("the first message is not of the form with a version".into());
        }
        if authenticate.len() < 88 || !authenticate.starts_with(b"NTLMSSP\0\x03\0\0\0") {
            return Err("the last message is too short for a checksum".into());
        }
        let part = |at: usize| -> Result<&[u8], String> {
            let number = |at: usize, n: usize| {
                authenticate[at..at + n].iter().rev().fold(0_usize, |sum, b| sum << 8 | usize::from(*b))
            };
            let (length, offset) = (number(at, 2), number(at + 4, 4));
            authenticate.get(offset..offset + length).ok_or_else(|| "an offset is wrong".to_owned())
        };
        let (lm, nt, domain, user) = (part(12)?, part(20)?, part(28)?, part(36)?);
        if user != utf16(&self.user) || domain != utf16(&self.domain) {
            return Err("unknown user".into());
        }
        let hash: [u8; 16] = Md4::digest(utf16(&self.password)).into();
        let key = hmac(&hash, &[&utf16(&self.user.to_uppercase()), &utf16(&self.domain)]);
        let (proof, rest) = nt.split_at_checked(16).ok_or("no NTLMv2 response")?;
        if hmac(&key, &[&self.challenge()[24..32], rest]) != proof {
            return Err("wrong password".into());
        }
        match self.time {
            Some(time) if rest[8..16] != time.to_le_bytes() => return Err("another time than ours".into()),
            Some(_) if lm.iter().any(|b| *b != 0) => return Err("an LM response beside a time".into()),
            _ => {}
        }
        let attributes = attributes(&rest[28..]).ok_or("the attributes are cut off")?;
        let value = |id: u16| attributes.iter().find(|(found, _)| *found == id).map(|(_, value)| *value);
        if value(6).is_none_or(|flags| flags[0] & 2 == 0) {
            return Err("no checksum announced".into());
        }
        let session = hmac(&key, &[proof]);
        let mut blank = authenticate.to_vec();
        blank[72..88].fill(0);
        if hmac(&session, &[negotiate, &self.challenge(), &blank]) != authenticate[72..88] {
            return Err("the checksum over the messages is wrong".into());
        }
        if let Some(digest) = &self.server_end_point {
            let data = [b"tls-server-end-point:", digest.as_slice()].concat();
            let length = u32::try_from(data.len()).expect("a digest is short").to_le_bytes();
            let expected = Md5::digest([&[0; 16], &length[..], &data].concat());
            if value(10) != Some(expected.as_slice()) {
                return Err("the channel binding is wrong".into());
            }
        }
        if let Some(target) = &self.target
            && value(9) != Some(&utf16(target))
        {
            return Err("the client wants to reach another service".into());
        }
        let signing = |magic: &str| Md5::digest([&session[..], magic.as_bytes(), b"\0"].concat()).into();
        Ok(Keys {
            client: signing("session key to client-to-server signing key magic constant"),
            server: signing("session key to server-to-client signing key magic constant"),
        })
    }
}

fn hmac(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Hmac<Md5> as KeyInit>::new_from_slice(key).expect("a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn field(message: &mut Vec<u8>, length: usize, offset: usize) {
    let length = u16::try_from(length).expect("a short field").to_le_bytes();
    message.extend(length);
    message.extend(length);
    message.extend(u32::try_from(offset).expect("a short message").to_le_bytes());
}

fn attribute(list: &mut Vec<u8>, id: u16, value: &[u8]) {
    list.extend(id.to_le_bytes());
    list.extend(u16::try_from(value.len()).expect("a short value").to_le_bytes());
    list.extend(value);
}

fn attributes(mut list: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    loop {
        let (head, rest) = list.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[2], head[3]])))?;
        match u16::from_le_bytes([head[0], head[1]]) {
            0 => return Some(found),
            id => found.push((id, value)),
        }
        list = rest;
    }
}
