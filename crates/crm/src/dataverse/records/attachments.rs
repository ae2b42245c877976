//! The files of an e-mail (`crm-contract.md` 3.5 and 5.3).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use email_router_http::Method;
use email_router_model::ActivityId;
use serde_json::Value;

use super::RouterDecides;
use crate::dataverse::web_api::Ask;
use crate::{Attachment, Error, ErrorKind, Result};

/// Up to so many bytes a file is read as a column of its row; a larger one as the bare value, decoded where it lies, so that memory holds it once.
const INLINE: u64 = 1 << 20;
/// No e-mail has more files.
const MOST: usize = 10_000;
/// Characters of base64 that are decoded at a time.
const BLOCK: usize = 4096;

impl RouterDecides {
    /// The files of an e-mail in their order, without content.
    pub(super) async fn attachment_rows(&self, id: &ActivityId) -> Result<Vec<Value>> {
        let path = format!(
            "activitymimeattachments?$select=activitymimeattachmentid,filename,mimetype,filesize,attachmentnumber,attachmentcontentid\
             &$filter=_objectid_value%20eq%20{id}&$orderby=attachmentnumber"
        );
        self.session.pages(path, &[], "listing attachments").all(MOST).await
    }

    pub(crate) async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        let rows = self.attachment_rows(id).await?;
        if rows.is_empty() {
            self.session.get(&format!("emails({id})?$select=activityid"), "reading an e-mail").await?;
        }
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
            let key = text("activitymimeattachmentid").unwrap_or_default();
            all.push(Attachment {
                file_name: text("filename").unwrap_or_default(),
                mime_type: text("mimetype").unwrap_or_else(|| "application/octet-stream".to_owned()),
                content_id: text("attachmentcontentid").filter(|id| !id.is_empty()),
                content: self.content(&key, size(&row)).await?,
            });
        }
        Ok(all)
    }

    async fn content(&self, key: &str, size: u64) -> Result<Bytes> {
        let doing = "reading an attachment";
        let mut text = Vec::new();
        if size <= INLINE {
            let path = format!("activitymimeattachments({key})?$select=body");
            if let Some(Value::String(body)) = self.session.get(&path, doing).await?.get_mut("body") {
                text = std::mem::take(body).into_bytes();
            }
        }
        if text.is_empty() && size > 0 {
            let path = format!("activitymimeattachments({key})/body/$value");
            text = Vec::from(self.session.send(Ask::new(Method::GET, path, doing)).await?.body);
        }
        let broken = |what: &str| {
            Error::new(ErrorKind::Invalid, format!("{}: {doing} {key}: {what}", self.session.place()))
        };
        // an attachment that is silently empty would be a wrong e-mail
        if text.is_empty() && size > 0 {
            return Err(broken("it has no content"));
        }
        decode(text).map(Bytes::from).map_err(|cause| broken("it is no base64").with_source(cause))
    }
}

/// The size of a file, in bytes.
pub(super) fn size(row: &Value) -> u64 {
    row.get("filesize").and_then(Value::as_u64).unwrap_or_default()
}

/// Decodes base64 into the place where it stands.
fn decode(mut text: Vec<u8>) -> std::result::Result<Vec<u8>, base64::DecodeSliceError> {
    let (mut block, mut read, mut written) = ([0; BLOCK / 4 * 3], 0, 0);
    while read < text.len() {
        let end = text.len().min(read + BLOCK);
        let length = BASE64_STANDARD.decode_slice(&text[read..end], &mut block)?;
        text[written..written + length].copy_from_slice(&block[..length]);
        (read, written) = (end, written + length);
    }
    text.truncate(written);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_where_it_stands() {
        for length in [0, 1, 2, 3, 3071, 3072, 3073, 3074, 100_000] {
            let content: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
            let text = BASE64_STANDARD.encode(&content).into_bytes();
            assert_eq!(decode(text).ok(), Some(content), "{length}");
        }
        assert!(decode(b"no base64!".to_vec()).is_err());
    }
}
