//! The wire format a second time: a schema read from the code or from a file, and a writer that knows only
//! `docs/protocol.md`. What the codec reads must be what this writes.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::{collections::BTreeMap, fmt::Debug, ops::Range, path::PathBuf};

use agent_protocol::{
    ClientMessage, Request, ServerMessage, codec,
    exit::{ExitRecord, How, KilledBy, LimitKind},
    failure::{Failure, FailureKind},
    handshake::Generation,
    message::{
        AddAgent, AgentStatus, AttachFrom, AttachRequest, AttachTo, Attached, Counts, Event, EventsRequest,
        ExecExited, ExecId, ExecRequest, ExecStarted, GitRequest, GitService, Lease, LeaseAction, LeaseWish,
        LogFrom, LogRequest, Next, Phase, Resources, SessionEnded, SessionId, SessionStarted, Status, Stdio,
        TerminalSize, UnitKind, UnitState, UnitStatus, Usage, ViewerId, What,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_reflection::{ContainerFormat, Format, Named, Registry, Tracer, TracerConfig, VariantFormat};

/// What a connection can carry; everything else is inside these.
pub(crate) const ROOTS: [&str; 3] = ["Request", "ClientMessage", "ServerMessage"];

/// The schema of the types as they are now.
pub(crate) fn today() -> Registry {
    let mut tracer = Tracer::new(TracerConfig::default());
    macro_rules! trace {
        ($($type:ty),* $(,)?) => {
            $(tracer.trace_simple_type::<$type>().expect(stringify!($type));)*
        };
    }
    // The roots, and every enum inside them: tracing a root sees only the first variant of those.
    trace!(
        AttachFrom,
        LeaseWish,
        LeaseAction,
        Next,
        Stdio,
        GitService,
        LogFrom,
        What,
        Phase,
        UnitKind,
        UnitState,
        How,
        KilledBy,
        LimitKind,
        FailureKind,
        Request,
        ClientMessage,
        ServerMessage,
    );
    tracer.registry().expect("an enum inside a message is missing from this list")
}

/// Reads `bytes` as the type of this name: how it looks, and its bytes again.
pub(crate) fn inspect(name: &str, bytes: &[u8]) -> Result<(String, Vec<u8>), codec::CodecError> {
    fn through<T: DeserializeOwned + Serialize + Debug>(
        bytes: &[u8],
    ) -> Result<(String, Vec<u8>), codec::CodecError> {
        let value: T = codec::decode(bytes)?;
        Ok((format!("{value:?}"), codec::encode(&value)?))
    }
    macro_rules! dispatch {
        ($($type:ident),* $(,)?) => {
            match name {
                $(stringify!($type) => through::<$type>(bytes),)*
                _ => panic!("{name} is new: add it to the list in tests/support"),
            }
        };
    }
    dispatch!(
        AddAgent,
        AgentStatus,
        AttachFrom,
        AttachRequest,
        AttachTo,
        Attached,
        ClientMessage,
        Counts,
        Event,
        EventsRequest,
        ExecExited,
        ExecId,
        ExecRequest,
        ExecStarted,
        ExitRecord,
        Failure,
        FailureKind,
        GitRequest,
        GitService,
        How,
        KilledBy,
        Lease,
        LeaseAction,
        LeaseWish,
        LimitKind,
        LogFrom,
        LogRequest,
        Next,
        Phase,
        Request,
        Resources,
        ServerMessage,
        SessionEnded,
        SessionId,
        SessionStarted,
        Status,
        Stdio,
        TerminalSize,
        UnitKind,
        UnitState,
        UnitStatus,
        Usage,
        ViewerId,
        What,
    )
}

/// Where the schema of a generation is frozen.
pub(crate) fn schema_path(generation: u32) -> PathBuf {
    root().join(format!("schema/generation-{generation}.json"))
}

/// The frozen schemas, oldest first.
pub(crate) fn frozen() -> BTreeMap<u32, Registry> {
    (Generation::OLDEST as u32..=Generation::NEWEST as u32)
        .filter_map(|generation| {
            let text = std::fs::read_to_string(schema_path(generation)).ok()?;
            Some((generation, serde_json::from_str(&text).expect("a schema file is damaged")))
        })
        .collect()
}

/// The folder of the package.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file with what it should be; with `BLESS=1` in the environment writes it instead.
pub(crate) fn expect_file(path: &std::path::Path, expected: &str, advice: &str) {
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    if let Some((at, (found, expected))) =
        found.lines().zip(expected.lines()).enumerate().find(|(_, (found, expected))| found != expected)
    {
        panic!("{} line {}:\n  found    {found}\n  expected {expected}\n{advice}", path.display(), at + 1);
    }
    assert_eq!(found.len(), expected.len(), "{} ends too early or too late\n{advice}", path.display());
}

/// Chooses the values that are written.
pub(crate) enum Source {
    /// Zero, empty, absent.
    Least,
    /// Present, twice, and numbers on both sides of every border of the number encoding.
    Most(usize),
    /// Whatever these numbers make of it, then zero.
    From(std::vec::IntoIter<u64>),
}

const BORDERS: [u64; 9] =
    [250, 251, 252, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, 0xffff_ffff_ffff_ffff];

impl Source {
    fn number(&mut self, largest: u64) -> u64 {
        match self {
            Self::Least => 0,
            Self::Most(at) => {
                *at += 1;
                BORDERS[*at % BORDERS.len()].min(largest)
            }
            Self::From(numbers) => {
                let number = numbers.next().unwrap_or(0);
                // Small numbers are as interesting as large ones.
                if number % 2 == 0 { (number >> 56).min(largest) } else { number & largest }
            }
        }
    }

    fn count(&mut self) -> usize {
        self.below(4, 2)
    }

    fn below(&mut self, end: usize, most: usize) -> usize {
        match self {
            Self::Least => 0,
            Self::Most(_) => most,
            Self::From(numbers) => (numbers.next().unwrap_or(0) % end as u64) as usize,
        }
    }
}

/// Writes one value, and remembers where what can be falsified is.
pub(crate) struct Writer<'a> {
    pub(crate) schema: &'a Registry,
    pub(crate) source: Source,
    pub(crate) out: Vec<u8>,
    /// Where lengths of strings, byte strings and lists are.
    pub(crate) lengths: Vec<Range<usize>>,
    /// Where numbers of variants are, and the first number that is none.
    pub(crate) variants: Vec<(Range<usize>, u64)>,
    /// Where bytes are that can only be 0 or 1.
    pub(crate) flags: Vec<usize>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(schema: &'a Registry, source: Source) -> Self {
        Self { schema, source, out: Vec::new(), lengths: Vec::new(), variants: Vec::new(), flags: Vec::new() }
    }

    /// Writes a value of a named type; `variant` fixes the outermost choice.
    pub(crate) fn named(&mut self, name: &str, variant: Option<u32>) {
        let schema = self.schema;
        match schema.get(name).unwrap_or_else(|| panic!("the schema has no {name}")) {
            ContainerFormat::UnitStruct => {}
            ContainerFormat::NewTypeStruct(inner) => self.value(inner),
            ContainerFormat::TupleStruct(fields) => fields.iter().for_each(|field| self.value(field)),
            ContainerFormat::Struct(fields) => fields.iter().for_each(|field| self.value(&field.value)),
            ContainerFormat::Enum(variants) => {
                let count = variants.len();
                let number = variant.unwrap_or_else(|| self.source.below(count, count - 1) as u32);
                let at = self.out.len();
                uint(number.into(), &mut self.out);
                self.variants.push((at..self.out.len(), count as u64));
                match &variants[&number].value {
                    VariantFormat::Unit => {}
                    VariantFormat::NewType(inner) => self.value(inner),
                    VariantFormat::Tuple(fields) => fields.iter().for_each(|field| self.value(field)),
                    VariantFormat::Struct(fields) => fields.iter().for_each(|field| self.value(&field.value)),
                    VariantFormat::Variable(_) => unreachable!("a schema is complete"),
                }
            }
        }
    }

    fn value(&mut self, format: &Format) {
        match format {
            Format::TypeName(name) => self.named(name, None),
            Format::Bool => {
                self.flags.push(self.out.len());
                let flag = self.source.below(2, 1) as u8;
                self.out.push(flag);
            }
            Format::U8 => {
                let number = self.source.number(0xff) as u8;
                self.out.push(number);
            }
            Format::U16 => self.uint(0xffff),
            Format::U32 => self.uint(u32::MAX.into()),
            Format::U64 => self.uint(u64::MAX),
            Format::I32 => {
                let number = self.source.number(u32::MAX.into()) as u32 as i32;
                uint(u64::from((number.wrapping_shl(1) ^ (number >> 31)) as u32), &mut self.out);
            }
            Format::Str => {
                let text: String = (0..self.source.count())
                    .map(|_| char::from_u32(self.source.number(0x10_ffff) as u32).unwrap_or('é'))
                    .collect();
                self.length(text.len());
                self.out.extend_from_slice(text.as_bytes());
            }
            Format::Bytes => {
                let count = self.source.count();
                self.length(count);
                for _ in 0..count {
                    let byte = self.source.number(0xff) as u8;
                    self.out.push(byte);
                }
            }
            Format::Option(inner) => {
                self.flags.push(self.out.len());
                let present = self.source.below(2, 1) as u8;
                self.out.push(present);
                if present == 1 {
                    self.value(inner);
                }
            }
            Format::Seq(inner) => {
                let count = self.source.count();
                self.length(count);
                (0..count).for_each(|_| self.value(inner));
            }
            Format::TupleArray { content, size } => (0..*size).for_each(|_| self.value(content)),
            Format::Tuple(fields) => fields.iter().for_each(|field| self.value(field)),
            other => {
                panic!("{other:?} is new on the wire: describe it in docs/protocol.md and write it here")
            }
        }
    }

    fn uint(&mut self, largest: u64) {
        let number = self.source.number(largest);
        uint(number, &mut self.out);
    }

    fn length(&mut self, length: usize) {
        let at = self.out.len();
        uint(length as u64, &mut self.out);
        self.lengths.push(at..self.out.len());
    }
}

/// An unsigned number in its shortest form.
pub(crate) fn uint(number: u64, out: &mut Vec<u8>) {
    match number {
        0..=250 => out.push(number as u8),
        251..=0xffff => {
            out.push(251);
            out.extend_from_slice(&(number as u16).to_le_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(252);
            out.extend_from_slice(&(number as u32).to_le_bytes());
        }
        _ => {
            out.push(253);
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// The variants of an enum by number; one unnamed choice for everything else.
pub(crate) fn choices(container: &ContainerFormat) -> Vec<(Option<u32>, String)> {
    match container {
        ContainerFormat::Enum(variants) => {
            variants.iter().map(|(number, Named { name, .. })| (Some(*number), format!(".{name}"))).collect()
        }
        _ => vec![(None, String::new())],
    }
}
