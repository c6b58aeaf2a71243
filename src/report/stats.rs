//! `memray stats`: everything that was allocated, in upstream's text and in its JSON.

use std::io::{self, Write};

use super::paint::{Paint, Style};
use crate::analyze::{Amount, Line, Statistics, histogram, largest};
use crate::capture::allocator_name;
use crate::ui::escape::printable;
use crate::ui::format;
use serde::Serialize;

const BINS: usize = 10;
/// Columns of the longest bar.
const BAR_WIDTH: u64 = 25;
/// Columns of a size.
const SIZE_WIDTH: usize = 9;

/// Writes the statistics; `count` rows of each table.
pub fn stats(statistics: &Statistics, count: usize, color: bool, out: &mut impl Write) -> io::Result<()> {
    let paint = Paint { is_on: color };
    let title = |icon: &str, text: &str, out: &mut dyn Write| -> io::Result<()> {
        let mut line = Vec::new();
        paint.write(Style::Title, text, &mut line)?;
        write!(out, "{icon} ")?;
        out.write_all(&line)?;
        writeln!(out)
    };
    title("📏", "Total allocations:", out)?;
    writeln!(out, "\t{}\n", statistics.total.allocations)?;
    title("📦", "Total memory allocated:", out)?;
    writeln!(out, "\t{}\n", format::bytes(statistics.total.bytes))?;
    title("📈", "Peak memory usage:", out)?;
    writeln!(out, "\t{}\n", format::bytes(statistics.peak_bytes))?;
    title("📊", "Histogram of allocation size:", out)?;
    bars(statistics, out)?;
    writeln!(out)?;
    title("📂", "Allocator type distribution:", out)?;
    for &(id, count) in &statistics.allocators {
        writeln!(out, "\t {}: {count}", allocator(id))?;
    }
    let in_bytes = |amount: &Amount| format::bytes(amount.bytes);
    let in_number = |amount: &Amount| amount.allocations.to_string();
    type Key = fn(&Amount) -> u64;
    type Shown = fn(&Amount) -> String;
    let by = [
        ("by size", bytes as Key, in_bytes as Shown),
        ("by number of allocations", allocations, in_number),
    ];
    for (how, key, shown) in by {
        writeln!(out)?;
        title("🥇", &format!("Top {count} largest allocating locations ({how}):"), out)?;
        for (line, amount) in largest(&statistics.lines, count, key) {
            let place = location(line.as_ref());
            writeln!(out, "\t- {} -> {}", printable(&place), shown(amount))?;
        }
    }
    for (how, key, _) in by.iter().filter(|_| !statistics.modules.is_empty()) {
        writeln!(out)?;
        title("🥇", &format!("Top {count} allocating modules ({how}):"), out)?;
        for (module, amount) in largest(&statistics.modules, count, key) {
            let (module, size) = (printable(module), format::bytes(amount.bytes));
            writeln!(out, "\t- {module}: {size} total | {} allocations", amount.allocations)?;
        }
    }
    Ok(())
}

fn bytes(amount: &Amount) -> u64 {
    amount.bytes
}

fn allocations(amount: &Amount) -> u64 {
    amount.allocations
}

/// The histogram, a bar for each bin.
fn bars(statistics: &Statistics, out: &mut impl Write) -> io::Result<()> {
    let sizes = &statistics.sizes;
    let (Some(&(smallest, _)), Some(&(greatest, _))) = (sizes.first(), sizes.last()) else {
        return writeln!(out, "\t<no data for histogram>");
    };
    let bins = histogram(sizes, BINS);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let count_width = most.to_string().len();
    let rule = "-".repeat(2 + SIZE_WIDTH + 2 + count_width + 1 + BAR_WIDTH as usize);
    writeln!(out, "\tmin: {}\n\t{rule}", format::bytes(smallest))?;
    for (number, bin) in bins.iter().enumerate() {
        let relation = if number + 1 == bins.len() { "<=" } else { "< " };
        let bar = "▇".repeat((u128::from(bin.count) * u128::from(BAR_WIDTH)).div_ceil(u128::from(most)) as usize);
        let size = format::bytes(bin.end_bytes);
        writeln!(
            out,
            "\t{relation}{size:<SIZE_WIDTH$}: {:>count_width$} {bar}",
            bin.count
        )?;
    }
    writeln!(out, "\t{rule}\n\tmax: {}", format::bytes(greatest))
}

fn allocator(id: u8) -> String {
    allocator_name(id).map_or_else(|| format!("UNKNOWN_{id}"), str::to_uppercase)
}

fn location(line: Option<&Line>) -> String {
    match line {
        Some(Line { function, file, line }) => format!("{function}:{file}:{line}"),
        None => "<stack trace unavailable>".to_owned(),
    }
}

/// What the JSON says of the capture itself; upstream's keys.
#[derive(Clone, Debug, Serialize)]
pub struct Metadata {
    pub start_time: String,
    pub end_time: String,
    /// Records, frees included.
    pub total_allocations: u64,
    pub total_frames: u64,
    /// Bytes.
    pub peak_memory: u64,
    pub command_line: String,
    pub pid: i32,
    pub main_thread_id: u64,
    pub python_allocator: String,
    pub has_native_traces: bool,
    pub trace_python_allocators: bool,
    pub file_format: u8,
}

#[derive(Serialize)]
struct Json<'a> {
    total_num_allocations: u64,
    total_bytes_allocated: u64,
    allocation_size_histogram: Vec<BinJson>,
    allocator_type_distribution: serde_json::Map<String, serde_json::Value>,
    top_allocations_by_size: Vec<SizeJson>,
    top_allocations_by_count: Vec<CountJson>,
    top_modules_by_allocation_size: Vec<ModuleJson<'a>>,
    top_modules_by_allocation_count: Vec<ModuleJson<'a>>,
    metadata: &'a Metadata,
}

#[derive(Serialize)]
struct BinJson {
    min_bytes: u64,
    max_bytes: u64,
    count: u64,
}

#[derive(Serialize)]
struct SizeJson {
    location: String,
    size: u64,
}

#[derive(Serialize)]
struct CountJson {
    location: String,
    count: u64,
}

#[derive(Serialize)]
struct ModuleJson<'a> {
    module: &'a str,
    num_allocations: u64,
    total_bytes: u64,
}

/// Writes one object with upstream's keys, sizes in bytes.
pub fn stats_json(statistics: &Statistics, count: usize, metadata: &Metadata, out: &mut impl Write) -> io::Result<()> {
    let bins = histogram(&statistics.sizes, BINS);
    let mut begin_bytes = 0;
    let mut bins_json = Vec::new();
    for (number, bin) in bins.iter().enumerate() {
        let is_last = number + 1 == bins.len();
        bins_json.push(BinJson {
            min_bytes: begin_bytes,
            max_bytes: if is_last {
                bin.end_bytes
            } else {
                bin.end_bytes.saturating_sub(1)
            },
            count: bin.count,
        });
        begin_bytes = bin.end_bytes;
    }
    let modules = |key: fn(&Amount) -> u64| {
        largest(&statistics.modules, count, key)
            .into_iter()
            .map(|(module, amount)| ModuleJson {
                module,
                num_allocations: amount.allocations,
                total_bytes: amount.bytes,
            })
            .collect()
    };
    let json = Json {
        total_num_allocations: statistics.total.allocations,
        total_bytes_allocated: statistics.total.bytes,
        allocation_size_histogram: bins_json,
        allocator_type_distribution: statistics
            .allocators
            .iter()
            .map(|&(id, count)| (allocator(id), count.into()))
            .collect(),
        top_allocations_by_size: largest(&statistics.lines, count, bytes)
            .into_iter()
            .map(|(line, amount)| SizeJson {
                location: location(line.as_ref()),
                size: amount.bytes,
            })
            .collect(),
        top_allocations_by_count: largest(&statistics.lines, count, allocations)
            .into_iter()
            .map(|(line, amount)| CountJson {
                location: location(line.as_ref()),
                count: amount.allocations,
            })
            .collect(),
        top_modules_by_allocation_size: modules(bytes),
        top_modules_by_allocation_count: modules(allocations),
        metadata,
    };
    serde_json::to_writer_pretty(&mut *out, &json)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics() -> Statistics {
        let amount = |allocations, bytes| Amount { allocations, bytes };
        let line = |function: &str, line| {
            Some(Line {
                function: function.to_owned(),
                file: "app\x1b.py".to_owned(),
                line,
            })
        };
        Statistics {
            total: amount(209, 39_955_000),
            records_count: 300,
            peak_bytes: 4_692_000,
            sizes: vec![(1, 5), (1000, 85), (1_048_576, 54)],
            allocators: vec![(6, 155), (14, 2)],
            lines: vec![
                (None, amount(142, 32_768)),
                (line("leaf", 3), amount(56, 38_600_000)),
                (line("other", 9), amount(11, 5)),
            ],
            modules: vec![("app".to_owned(), amount(67, 39_652_000))],
        }
    }

    #[test]
    fn the_text_is_upstreams() {
        let mut out = Vec::new();
        stats(&statistics(), 2, false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = "\
📏 Total allocations:
\t209

📦 Total memory allocated:
\t39.955MB

📈 Peak memory usage:
\t4.692MB

📊 Histogram of allocation size:
\tmin: 1.000B
\t-----------------------------------------
\t< 4.000B   :  5 ▇▇
";
        assert!(text.starts_with(expected), "{text}");
        let expected = "\
\t-----------------------------------------
\tmax: 1.049MB

📂 Allocator type distribution:
\t MALLOC: 155
\t MMAP: 2

🥇 Top 2 largest allocating locations (by size):
\t- leaf:app\\x1b.py:3 -> 38.600MB
\t- <stack trace unavailable> -> 32.768kB

🥇 Top 2 largest allocating locations (by number of allocations):
\t- <stack trace unavailable> -> 142
\t- leaf:app\\x1b.py:3 -> 56

🥇 Top 2 allocating modules (by size):
\t- app: 39.652MB total | 67 allocations

🥇 Top 2 allocating modules (by number of allocations):
\t- app: 39.652MB total | 67 allocations
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn of_nothing_there_is_no_histogram() {
        let mut out = Vec::new();
        stats(&Statistics::default(), 5, false, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\t<no data for histogram>\n"));
    }
}
