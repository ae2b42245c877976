//! `.eml` files as a source.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    ImportLimits, Imported, MessageSource, Position, Progress, fault, id_of_path, read_message, resolve,
    size, unreadable,
};
use crate::maildir::proto;
use crate::{Error, ErrorKind, Result};

const KIND: &str = "eml";
/// Folders deeper than this are an error; nobody sorts mail that deep, but a loop of mounts can be endless.
const MAX_DEPTH: usize = 64;

/// One file, or all files whose name ends with `.eml` (in any letter case) in a folder and its subfolders, ordered by path. Names that begin with
/// a dot are passed over. Memory: the names of the folders that are open.
///
/// A symbolic link with such a name gives the file it leads to. One that leads to a folder, whatever its name, is not followed, so no walk
/// goes round in circles or finds a folder twice; like one that leads nowhere it fails as a message does, and the source goes on.
#[derive(Debug)]
pub struct EmlFiles {
    root: PathBuf,
    limits: ImportLimits,
    walk: Walk,
    /// Everything up to this path is passed over.
    after: Option<Vec<Vec<u8>>>,
    position: Option<Position>,
    progress: Progress,
}

impl EmlFiles {
    /// Opens the file or folder at `path`. A folder is walked through once for [`Progress::total_bytes`].
    ///
    /// # Errors
    /// When nothing is there, or it cannot be listed.
    pub fn open(path: &Path, limits: ImportLimits) -> Result<Self> {
        let path = &*resolve(path)?;
        let found = fs::metadata(path).map_err(|e| unreadable(path, e))?;
        let (walk, root, total_bytes) = if found.is_dir() {
            let mut total = 0;
            let mut counting = Walk::new(path)?;
            while let Some(step) = counting.next_file() {
                if let Ok(components) = step {
                    total += size(&join(path, &components));
                }
            }
            (Walk::new(path)?, path.to_owned(), total)
        } else {
            let name = proto::name_bytes(path.file_name().unwrap_or_default());
            let root = path.parent().map(Path::to_owned).unwrap_or_default();
            (Walk::one(&root, name), root, found.len())
        };
        let progress = Progress { total_bytes, ..Progress::default() };
        Ok(Self { root, limits, walk, after: None, position: None, progress })
    }
}

impl MessageSource for EmlFiles {
    fn next_message(&mut self) -> Result<Option<Imported>> {
        loop {
            let components = match self.walk.next_file() {
                None => return Ok(None),
                Some(Ok(components)) => components,
                Some(Err(e)) => {
                    self.progress.failed += 1;
                    return Err(e);
                }
            };
            let path = join(&self.root, &components);
            self.progress.done_bytes += size(&path);
            if self.after.as_ref().is_some_and(|after| components <= *after) {
                continue;
            }
            let id = id_of_path(&components);
            let position = Position::new(KIND, &id);
            self.position = Some(position.clone());
            return match read_message(&path, self.limits) {
                Ok(message) => {
                    self.progress.messages += 1;
                    Ok(Some(Imported { id, position, message }))
                }
                Err(e) => {
                    self.progress.failed += 1;
                    Err(e)
                }
            };
        }
    }

    fn resume_after(&mut self, position: &Position) -> Result<()> {
        let place = position.place(KIND)?;
        let components = place.split('/').map(|part| proto::base_of(&part.into())).collect::<Option<_>>();
        self.after = Some(components.ok_or_else(|| position.unusable(KIND))?);
        self.position = Some(position.clone());
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        self.position.clone()
    }

    fn progress(&self) -> Progress {
        self.progress
    }
}

/// Walks a tree in the order of its paths, one folder open for each level.
#[derive(Debug)]
struct Walk {
    root: PathBuf,
    /// The folder names down to the level that is open.
    at: Vec<Vec<u8>>,
    levels: Vec<std::vec::IntoIter<(Vec<u8>, bool)>>,
}

impl Walk {
    fn new(root: &Path) -> Result<Self> {
        let first = list(root).map_err(|e| unreadable(root, e))?;
        Ok(Self { root: root.to_owned(), at: Vec::new(), levels: vec![first.into_iter()] })
    }

    fn one(root: &Path, name: Vec<u8>) -> Self {
        Self { root: root.to_owned(), at: Vec::new(), levels: vec![vec![(name, false)].into_iter()] }
    }

    /// The next file, as its names below the root. A folder that cannot be listed is an error, and the walk goes on behind it.
    fn next_file(&mut self) -> Option<Result<Vec<Vec<u8>>>> {
        loop {
            let Some((name, is_folder)) = self.levels.last_mut()?.next() else {
                self.levels.pop();
                self.at.pop();
                continue;
            };
            let mut components = self.at.clone();
            components.push(name);
            if !is_folder {
                return Some(Ok(components));
            }
            let path = join(&self.root, &components);
            if components.len() >= MAX_DEPTH {
                let text = format!("import {}: folders are nested deeper than {MAX_DEPTH}", path.display());
                return Some(Err(Error::new(ErrorKind::TooLarge, text)));
            }
            match list(&path) {
                Ok(level) => {
                    self.levels.push(level.into_iter());
                    self.at = components;
                }
                Err(e) => return Some(Err(fault("list it", &path, e))),
            }
        }
    }
}

/// What counts in a folder, sorted by name, each with whether it is a folder: subfolders, `.eml` files, links of such a name, and links that
/// lead to no file. The last hide mail, perhaps a whole folder of it, so they are reported; a link to another kind of file is like that file.
fn list(folder: &Path) -> std::io::Result<Vec<(Vec<u8>, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = proto::name_bytes(&entry.file_name());
        let is_eml = name.len() > 4 && name[name.len() - 4..].eq_ignore_ascii_case(b".eml");
        let leads_to_file = || fs::metadata(entry.path()).is_ok_and(|m| m.is_file());
        let wanted = kind.is_dir()
            || (kind.is_file() && is_eml)
            || (kind.is_symlink() && (is_eml || !leads_to_file()));
        if name.first() != Some(&b'.') && wanted {
            found.push((name, kind.is_dir()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn join(root: &Path, components: &[Vec<u8>]) -> PathBuf {
    components.iter().fold(root.to_owned(), |path, name| path.join(proto::os_string(name.clone())))
}
