//! `replay [--mutations N] [--seed S] [TARGET...]`: runs fuzz targets on the stable compiler, on their seeds, on what libFuzzer
//! found before, and on N mutations (default 5,000) of these inputs. The same arguments give the same inputs. A failing input is
//! written to `fuzz/artifacts`; the exit code is 1 then, and 2 for wrong arguments.
#![warn(missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use email_router_fuzz::{TARGETS, Target};
use email_router_model::read_file_capped;

/// Larger seeds run as they are; mutations of them would only be slow.
const MUTABLE: usize = 16 * 1024;

fn main() -> ExitCode {
    let (mut mutations, mut seed, mut names) = (5_000_u64, 1_u64, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = match argument.as_str() {
            "--mutations" => &mut mutations,
            "--seed" => &mut seed,
            name if TARGETS.iter().any(|t| t.name == name) => {
                names.push(argument);
                continue;
            }
            _ => return usage(&format!("unknown argument or target {argument:?}")),
        };
        match arguments.next().and_then(|n| n.parse().ok()) {
            Some(n) => *number = n,
            None => return usage(&format!("{argument} needs a number")),
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut failed = false;
    for target in TARGETS.iter().filter(|t| names.is_empty() || names.iter().any(|n| n == t.name)) {
        failed |= !replay(target, root, mutations, seed);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn usage(fault: &str) -> ExitCode {
    eprintln!("replay: {fault}; usage: replay [--mutations N] [--seed S] [TARGET...]");
    ExitCode::from(2)
}

/// Whether the target held on all inputs.
fn replay(target: &Target, root: &Path, mutations: u64, seed: u64) -> bool {
    let mut seeds = vec![Vec::new()];
    let own = ["fuzz/seeds", "fuzz/corpus"].map(|folder| root.join(folder).join(target.name));
    for folder in own.into_iter().chain(target.folders.iter().map(|folder| root.join(folder))) {
        for file in files(&folder) {
            match read_file_capped(&file, 1 << 20) {
                Ok(bytes) => seeds.push(bytes),
                Err(error) => {
                    eprintln!("{}: {error}", target.name);
                    return false;
                }
            }
        }
    }
    for input in &seeds {
        if !held(target, root, input, "a seed") {
            return false;
        }
    }
    let mutable: Vec<&[u8]> = seeds.iter().filter(|s| s.len() <= MUTABLE).map(Vec::as_slice).collect();
    let mut random = Random(seed);
    for number in 0..mutations {
        let input = mutate(&mutable, &mut random);
        if !held(target, root, &input, &format!("mutation {number} of --seed {seed}")) {
            return false;
        }
    }
    println!("{}: held on {} seeds and {mutations} mutations (--seed {seed})", target.name, seeds.len());
    true
}

fn held(target: &Target, root: &Path, input: &[u8], what: &str) -> bool {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok() {
        return true;
    }
    let folder = root.join("fuzz/artifacts").join(target.name);
    let file = folder.join(format!("replay-{:016x}", fingerprint(input)));
    match std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, input)) {
        Ok(()) => eprintln!("{}: failed on {what}; the input is in {}", target.name, file.display()),
        Err(error) => {
            eprintln!("{}: failed on {what}; cannot write {}: {error}", target.name, file.display())
        }
    }
    false
}

/// All files below a folder, sorted, so that a run is repeatable; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Bytes that mean something to mail parsers; mutations sprinkle them in.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\n ",
    b"\r\n.\r\n",
    b"\0",
    b"\xff",
    b"\xc3",
    b":",
    b"<",
    b">",
    b"@",
    b"\"",
    b"\\",
    b"(",
    b";",
    b",",
    b"=?utf-8?q?",
    b"=?utf-8?b?",
    b"?=",
    b"--",
    b"boundary=",
    b"Content-Type: multipart/mixed;",
    b"=\r\n",
    b"=3D",
    b"-1",
    b"4294967296",
    b"18446744073709551616",
];

fn mutate(seeds: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + 1 + random.below(32)).min(input.len());
        match random.below(6) {
            0 => drop(input.drain(at.min(end)..end)),
            1 => input.truncate(at),
            2 => {
                let copy = input[at.min(end)..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            3 => {
                let word = WORDS[random.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            4 if at < input.len() => input[at] ^= 1 << random.below(8),
            _ => {
                let other = seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + 64).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
        }
    }
    input
}

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        // bound is a length in memory, far below 2^64, so both conversions keep the value
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// FNV-1a, to name files.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
