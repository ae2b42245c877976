//! The formatted body: compressed RTF ([MS-OXRTFCP]), which may carry HTML or plain text ([MS-OXRTFEX]).

mod compressed;
mod encapsulated;

pub use compressed::{Decompressed, decompress};
pub use encapsulated::{Body, body};
