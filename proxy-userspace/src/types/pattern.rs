//! Regular expressions that must match as a whole.
//!
//! The time of a match is linear in its input whatever the pattern. A pattern is made a DFA when
//! it is small enough: that needs no memory of its own while it matches, so that threads share it
//! without a lock. Others keep scratch memory in a pool.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind, PatternID, meta};
use regex_syntax::hir::{Hir, Look};
use std::fmt;

/// Octets of one pattern's NFA: above, it is refused.
const NFA_OCTETS: usize = 1 << 20;
/// Octets of a DFA: above, the pattern is matched without one.
const DFA_OCTETS: usize = 256 << 10;
/// Octets that the making of a DFA may take.
const DETERMINIZE_OCTETS: usize = 1 << 20;
/// How much more sets of patterns may have.
const SET: usize = 8;

/// A regular expression over octets that matches a whole text or not at all. Classes such as `\d`
/// and `(?i)` know ASCII only, unless the pattern has `(?u)`.
#[derive(Clone)]
pub struct Pattern {
    engine: Engine,
    text: Box<str>,
}

#[derive(Clone)]
enum Engine {
    Dfa(Box<dense::DFA<Vec<u32>>>),
    Meta(meta::Regex),
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Its syntax.
    #[error("{message} (at character {at})")]
    Syntax {
        /// What is wrong.
        message: String,
        /// Where, in characters from 1 on.
        at: usize,
    },
    /// Its size.
    #[error("it is too large: it may repeat large parts many times")]
    TooLarge,
    /// A replacement names a group that the pattern does not have.
    #[error("`${group}` names a group, but the pattern has {groups}")]
    NoSuchGroup {
        /// The group.
        group: usize,
        /// How many there are.
        groups: usize,
    },
    /// A replacement has a dollar sign that means nothing.
    #[error("`$` must be followed by a digit or another `$`")]
    Dollar,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// If its syntax is wrong, or if it is too large.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let hir = parse(text)?;
        let engine = match dfa(&nfa(std::slice::from_ref(&hir), 1)?, 1) {
            Some(dfa) => Engine::Dfa(Box::new(dfa)),
            None => Engine::Meta(meta(&hir)?),
        };
        Ok(Self {
            engine,
            text: text.into(),
        })
    }

    /// Judges a pattern as [`Self::new`] does, at less cost.
    ///
    /// # Errors
    ///
    /// If its syntax is wrong, or if it is too large.
    pub fn check(text: &str) -> Result<(), PatternError> {
        nfa(std::slice::from_ref(&parse(text)?), 1).map(|_| ())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if it matches all of `text`.
    pub fn is_match(&self, text: &[u8]) -> bool {
        match &self.engine {
            Engine::Dfa(dfa) => {
                end_state(dfa, text.iter().copied()).is_some_and(|state| dfa.is_match_state(state))
            }
            Engine::Meta(regex) => regex.is_match(text),
        }
    }

    /// As [`Self::is_match`], of a text that is not in one piece.
    pub fn is_match_of(&self, text: impl Iterator<Item = u8>) -> bool {
        match &self.engine {
            Engine::Dfa(dfa) => end_state(dfa, text).is_some_and(|state| dfa.is_match_state(state)),
            Engine::Meta(regex) => regex.is_match(&text.collect::<Vec<_>>()),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// Patterns that are matched against one text together: at the cost of one, as long as one DFA for
/// all of them is not too large; else at the cost of as many as there are DFAs.
#[derive(Clone, Debug, Default)]
pub struct PatternSet {
    /// Patterns that stand next to each other, by the index of the first.
    runs: Vec<(usize, Run)>,
}

#[derive(Clone, Debug)]
enum Run {
    /// Some patterns, by their order.
    Dfa(Box<dense::DFA<Vec<u32>>>),
    /// One pattern.
    Meta(meta::Regex),
}

impl PatternSet {
    /// Reads patterns.
    ///
    /// # Errors
    ///
    /// The index of a pattern that [`Pattern::new`] refuses, and why.
    pub fn new(texts: &[&str]) -> Result<Self, (usize, PatternError)> {
        let parsed = texts.iter().enumerate();
        let parsed: Result<Vec<_>, _> = parsed
            .map(|(index, text)| parse(text).map_err(|error| (index, error)))
            .collect();
        let mut set = Self::default();
        set.add(0, &parsed?)?;
        Ok(set)
    }

    /// Adds patterns as one DFA, or, if that is too large, in two halves.
    fn add(&mut self, first: usize, patterns: &[Hir]) -> Result<(), (usize, PatternError)> {
        if patterns.is_empty() {
            return Ok(());
        }
        let small = nfa(patterns, SET).ok();
        if let Some(dfa) = small.and_then(|nfa| dfa(&nfa, SET)) {
            self.runs.push((first, Run::Dfa(Box::new(dfa))));
            return Ok(());
        }
        if let [pattern] = patterns {
            nfa(patterns, 1).map_err(|error| (first, error))?;
            let regex = meta(pattern).map_err(|error| (first, error))?;
            self.runs.push((first, Run::Meta(regex)));
            return Ok(());
        }
        let (head, tail) = patterns.split_at(patterns.len() / 2);
        self.add(first, head)?;
        self.add(first + head.len(), tail)
    }

    /// True if there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Indices of the patterns that match all of `text`, ascending, until `found` returns true.
    /// True if it did.
    pub fn any(
        &self,
        text: impl Iterator<Item = u8> + Clone,
        mut found: impl FnMut(usize) -> bool,
    ) -> bool {
        self.runs.iter().any(|(first, run)| match run {
            Run::Dfa(dfa) => any_of_dfa(dfa, text.clone(), |index| found(first + index)),
            Run::Meta(regex) => {
                let text: Vec<u8> = text.clone().collect();
                regex.is_match(&text) && found(*first)
            }
        })
    }
}

/// [`PatternSet::any`] of one DFA.
fn any_of_dfa(
    dfa: &dense::DFA<Vec<u32>>,
    text: impl Iterator<Item = u8>,
    mut found: impl FnMut(usize) -> bool,
) -> bool {
    let Some(state) = end_state(dfa, text).filter(|state| dfa.is_match_state(*state)) else {
        return false;
    };
    let matches = || (0..dfa.match_len(state)).map(|at| dfa.match_pattern(state, at));
    // The automaton does not promise an order; matches are few.
    let mut next = matches().min();
    while let Some(pattern) = next {
        if found(pattern.as_usize()) {
            return true;
        }
        next = matches().filter(|&other: &PatternID| other > pattern).min();
    }
    false
}

/// The pattern as it is. Octets, not characters: a path is not always UTF-8.
fn parse(text: &str) -> Result<Hir, PatternError> {
    let mut parser = regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .build();
    let character = |offset: usize| text.get(..offset).unwrap_or("").chars().count() + 1;
    parser.parse(text).map_err(|error| {
        let (message, offset) = match &error {
            regex_syntax::Error::Parse(error) => {
                (error.kind().to_string(), error.span().start.offset)
            }
            regex_syntax::Error::Translate(error) => {
                (error.kind().to_string(), error.span().start.offset)
            }
            other => (other.to_string(), 0),
        };
        PatternError::Syntax {
            message,
            at: character(offset),
        }
    })
}

/// The patterns as one NFA, if it is not too large. `times` the usual limit.
fn nfa(patterns: &[Hir], times: usize) -> Result<thompson::NFA, PatternError> {
    thompson::Compiler::new()
        .configure(
            thompson::Config::new()
                .utf8(false)
                .nfa_size_limit(Some(NFA_OCTETS * times))
                .which_captures(thompson::WhichCaptures::None),
        )
        .build_many_from_hir(patterns)
        .map_err(|_| PatternError::TooLarge)
}

/// An NFA as a DFA, if that is not too large. `times` the usual limits.
fn dfa(nfa: &thompson::NFA, times: usize) -> Option<dense::DFA<Vec<u32>>> {
    dense::Builder::new()
        .configure(
            dense::Config::new()
                // The beginning and the end come of the way it is asked, see `end_state`: adding
                // anchors to the text of a pattern would change what some patterns mean.
                .start_kind(StartKind::Anchored)
                .match_kind(MatchKind::All)
                .dfa_size_limit(Some(DFA_OCTETS * times))
                .determinize_size_limit(Some(DETERMINIZE_OCTETS * times)),
        )
        .build_from_nfa(nfa)
        .ok()
}

/// A searcher for matches anywhere.
pub(super) fn search(text: &str) -> Result<meta::Regex, PatternError> {
    let hir = parse(text)?;
    nfa(std::slice::from_ref(&hir), 1)?;
    build(&hir)
}

fn meta(pattern: &Hir) -> Result<meta::Regex, PatternError> {
    let whole = Hir::concat(vec![
        Hir::look(Look::Start),
        pattern.clone(),
        Hir::look(Look::End),
    ]);
    build(&whole)
}

fn build(pattern: &Hir) -> Result<meta::Regex, PatternError> {
    meta::Builder::new()
        .configure(
            meta::Config::new()
                .utf8_empty(false)
                // There are several NFAs, with captures and with anchors, each a little larger
                // than the one that was found small enough.
                .nfa_size_limit(Some(NFA_OCTETS * 8)),
        )
        .build_from_hir(pattern)
        .map_err(|_| PatternError::TooLarge)
}

/// The state after all of `text`; `None` if nothing can match from some octet on.
fn end_state(
    dfa: &dense::DFA<Vec<u32>>,
    text: impl Iterator<Item = u8>,
) -> Option<regex_automata::util::primitives::StateID> {
    let start = start::Config::new().anchored(Anchored::Yes);
    let mut state = dfa.start_state(&start).ok()?;
    for octet in text {
        state = dfa.next_state(state, octet);
        // Dead; a quitting automaton is not made, because Unicode word boundaries are refused.
        if dfa.is_special_state(state) && (dfa.is_dead_state(state) || dfa.is_quit_state(state)) {
            return None;
        }
    }
    Some(dfa.next_eoi_state(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let pattern = Pattern::new(pattern).unwrap();
        let split = text.bytes().filter(|_| true);
        assert_eq!(
            pattern.is_match(text.as_bytes()),
            pattern.is_match_of(split)
        );
        pattern.is_match(text.as_bytes())
    }

    #[test]
    fn the_whole_text_must_match() {
        assert!(matches("/users/[0-9]+", "/users/17"));
        assert!(!matches("/users/[0-9]+", "/users/17/"));
        assert!(!matches("/users/[0-9]+", "x/users/17"));
        // The shorter alternative comes first, and does not hide the longer one.
        assert!(matches("a|ab", "ab"));
        assert!(matches("", "") && !matches("", "a"));
        assert!(matches("(?x) a b # a remark", "ab"));
        assert!(matches("^a$", "a"));
        assert!(matches("(?i)/Api", "/aPI"));
    }

    #[test]
    fn large_patterns_match_as_small_ones() {
        // Its DFA has some 2^16 states.
        let large = "(a|b)*a(a|b){16}";
        assert!(matches!(
            Pattern::new(large).unwrap().engine,
            Engine::Meta(_)
        ));
        assert!(matches(large, "abbbbbbbbbbbbbbbb"));
        assert!(!matches(large, "bbbbbbbbbbbbbbbbb"));
        let set = PatternSet::new(&[large, &large.replace("16", "17"), "a.*"]).unwrap();
        let mut found = Vec::new();
        assert!(!set.any(b"abbbbbbbbbbbbbbbb".iter().copied(), |index| {
            found.push(index);
            false
        }));
        assert_eq!(found, [0, 2]);
        assert_eq!(set.runs.len(), 3);
    }

    #[test]
    fn faults_say_what_and_where() {
        let fault = |text: &str| Pattern::new(text).unwrap_err().to_string();
        assert_eq!(fault("/a(b"), "unclosed group (at character 3)");
        assert_eq!(fault("/é)"), "unopened group (at character 3)");
        assert_eq!(fault("a)(b"), "unopened group (at character 2)");
        assert!(fault("((a{1000}){1000}){1000}").starts_with("it is too large"));
        assert_eq!(PatternSet::new(&["a", "("]).unwrap_err().0, 1);
    }

    proptest! {
        #[test]
        fn a_set_finds_what_each_pattern_finds(
            patterns in proptest::collection::vec("[ab.]{0,3}(\\(a\\|b\\))?\\*?", 0..6),
            text in "[ab]{0,5}",
        ) {
            let patterns: Vec<&str> = patterns
                .iter()
                .map(String::as_str)
                .filter(|pattern| Pattern::new(pattern).is_ok())
                .collect();
            let set = PatternSet::new(&patterns).unwrap();
            let mut found = Vec::new();
            set.any(text.bytes(), |index| {
                found.push(index);
                false
            });
            let expected: Vec<_> = (0..patterns.len())
                .filter(|&index| Pattern::new(patterns[index]).unwrap().is_match(text.as_bytes()))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
