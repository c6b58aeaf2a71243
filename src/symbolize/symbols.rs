//! Symbol tables: which function an address is in.

use object::{Object, ObjectSymbol, ReadRef, SymbolKind};
use std::borrow::Cow;

/// Symbols of one file that are kept.
const SYMBOLS_MAX: usize = 8 << 20;

/// Functions by address.
#[derive(Default)]
pub struct Symbols {
    /// Sorted once all are in.
    functions: Vec<Function>,
}

struct Function {
    start: u64,
    bytes: u64,
    name: String,
}

impl Symbols {
    pub fn of<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>) -> Self {
        let mut symbols = Self::default();
        symbols.add(elf);
        symbols
    }

    /// Those of another file with the same addresses.
    pub fn add<'a, R: ReadRef<'a>>(&mut self, elf: &object::File<'a, R>) {
        let functions = elf.symbols().chain(elf.dynamic_symbols()).filter_map(|symbol| {
            let is_function = symbol.kind() == SymbolKind::Text && symbol.is_definition();
            let name = symbol.name().ok().filter(|name| is_function && !name.is_empty())?;
            Some(Function {
                start: symbol.address(),
                bytes: symbol.size(),
                name: name.to_owned(),
            })
        });
        self.functions.extend(functions.take(SYMBOLS_MAX));
        // Of several names for one address the shortest with the fewest underscores before it: what people call it.
        self.functions.sort_by(|a, b| {
            let rank = |it: &Function| {
                let underscores = it.name.len() - it.name.trim_start_matches('_').len();
                (it.start, it.bytes == 0, underscores, it.name.len())
            };
            rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
        });
        self.functions.dedup_by_key(|it| it.start);
    }

    /// The function that an address is in, as people write it.
    pub fn name(&self, address: u64) -> Option<String> {
        let position = self
            .functions
            .partition_point(|it| it.start <= address)
            .checked_sub(1)?;
        let function = &self.functions[position];
        let is_inside = address - function.start < function.bytes;
        // Assembly often says no size.
        (is_inside || function.bytes == 0)
            .then(|| addr2line::demangle_auto(Cow::Borrowed(&function.name), None).into_owned())
    }
}
