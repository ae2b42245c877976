//! Ratios within one run: the only numbers of a shared machine that mean something.

use crate::child::Run;

/// What one client did in alternating rounds.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// The client.
    pub name: String,
    /// Its rounds.
    pub runs: Vec<Run>,
    /// The least speed relative to the limit, where there is a target.
    pub target: Option<f64>,
}

/// A comparison: the first row is the limit.
#[derive(Debug, Default)]
pub struct Comparison {
    rows: Vec<Row>,
}

impl Comparison {
    /// Adds what a client did in this round.
    pub fn add(&mut self, name: &str, target: Option<f64>, run: Run) {
        match self.rows.iter_mut().find(|r| r.name == name) {
            Some(row) => row.runs.push(run),
            None => self.rows.push(Row { name: name.to_owned(), runs: vec![run], target }),
        }
    }

    /// Prints speed, ratios of speed and CPU to the first row, and targets. `items` is how many messages a run has, `bytes` how many bytes.
    pub fn print(&self, title: &str, items: usize, bytes: u64) {
        println!(
            "\n{title} ({items} messages, {:.1} MB, {} rounds)",
            bytes as f64 / 1e6,
            self.rows.first().map_or(0, |r| r.runs.len())
        );
        println!(
            "{:<38} {:>9} {:>8} {:>7} {:>9} {:>9} {:>8}",
            "", "msg/s", "MB/s", "speed", "CPU", "us/msg", "target"
        );
        let Some(limit) = self.rows.first() else { return };
        for row in &self.rows {
            // round by round, so that what the machine does besides hits both sides
            let ratio = |f: fn(&Run) -> f64| {
                median(row.runs.iter().zip(&limit.runs).map(|(a, b)| f(a) / f(b).max(1e-9)).collect())
            };
            let wall = median(row.runs.iter().map(|r| r.wall).collect());
            let cpu = median(row.runs.iter().map(|r| r.cpu).collect());
            let speed = 1.0 / ratio(|r| r.wall);
            let target = row.target.map_or(String::new(), |t| format!("{t:.2} {}", verdict(speed >= t)));
            println!(
                "{:<38} {:>9.0} {:>8.1} {:>7.2} {:>8.2}x {:>9.0} {:>8}",
                row.name,
                items as f64 / wall,
                bytes as f64 / 1e6 / wall,
                speed,
                ratio(|r| r.cpu),
                cpu * 1e6 / items as f64,
                target
            );
        }
    }
}

/// `met` or `MISSED`; nothing in a smoke run, whose numbers mean nothing.
#[must_use]
pub fn verdict(met: bool) -> &'static str {
    match (crate::is_smoke(), met) {
        (true, _) => "",
        (false, true) => "met",
        (false, false) => "MISSED",
    }
}

/// The middle one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
