//! Ends a stream of text at the first stop string, however the text is cut into pieces.
//!
//! The first occurrence is the one that is *complete* first: generation ends as soon as the text
//! contains a stop string, without waiting for a longer one. Of several that complete at the same
//! place the longest counts, as it leaves no part of itself in the output.
//!
//! Text is passed on at once, save the longest suffix with which a stop string may yet begin.
//! Matching is on whole characters, so what is passed on is always valid UTF-8.

/// Why a list of stop strings was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// A stop string is empty, and would match everywhere.
    #[error("stop string {index}: expected at least one character, found an empty string")]
    Empty {
        /// Its index in the list.
        index: usize,
    },
}

/// What one piece of text led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct StopStep<'a> {
    /// Text that may be shown now; never part of a stop string that matched.
    pub emit: &'a str,
    /// Index of the stop string that ended the text; `None` while it goes on.
    pub matched: Option<usize>,
}

impl StopStep<'_> {
    /// Returns whether the text has ended.
    pub fn stopped(&self) -> bool {
        self.matched.is_some()
    }
}

/// Watches a stream of text for stop strings.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text not yet passed on, after the first `emitted` bytes, which have been.
    buffer: String,
    emitted: usize,
    matched: Option<usize>,
}

impl StopStrings {
    /// Makes a matcher; with an empty list everything is passed on at once.
    ///
    /// # Errors
    /// [`StopError::Empty`] when one of the strings is empty.
    pub fn new(stops: Vec<String>) -> Result<Self, StopError> {
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(StopError::Empty { index }),
            None => Ok(Self { stops, buffer: String::new(), emitted: 0, matched: None }),
        }
    }

    /// Returns the stop strings, in the order given.
    pub fn stops(&self) -> &[String] {
        &self.stops
    }

    /// Takes the next piece of text and returns what may be shown.
    ///
    /// Text after a match is dropped.
    pub fn push(&mut self, text: &str) -> StopStep<'_> {
        self.buffer.drain(..self.emitted);
        self.emitted = 0;
        if self.matched.is_none() {
            self.buffer.push_str(text);
            match self.first_match() {
                Some((start, stop)) => {
                    self.matched = Some(stop);
                    self.buffer.truncate(start);
                    self.emitted = start;
                }
                None => self.emitted = self.buffer.len() - self.held_back(),
            }
        }
        StopStep { emit: &self.buffer[..self.emitted], matched: self.matched }
    }

    /// Ends the stream and returns the text held back: it began a stop string that never came.
    pub fn finish(&mut self) -> &str {
        self.buffer.drain(..self.emitted);
        self.emitted = self.buffer.len();
        &self.buffer
    }

    /// Forgets the text seen so far, for another stream.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.emitted = 0;
        self.matched = None;
    }

    /// Returns start and index of the match that ends first, the longest among several.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            self.buffer.find(stop.as_str()).map(|start| (start + stop.len(), start, index))
        });
        found.min().map(|(_, start, index)| (start, index))
    }

    /// Returns the length of the longest suffix of the buffer that begins a stop string.
    fn held_back(&self) -> usize {
        let longest = |stop: &String| {
            let starts = |n: &usize| *n <= self.buffer.len() && self.buffer.ends_with(&stop[..*n]);
            stop.char_indices().map(|(n, _)| n).rev().find(starts).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|s| s.to_string()).collect()).unwrap()
    }

    /// Feeds the pieces and returns all that was shown and the index of the match.
    fn stream(stops: &mut StopStrings, pieces: &[&str]) -> (String, Option<usize>) {
        let mut shown = String::new();
        let mut matched = None;
        for piece in pieces {
            let step = stops.push(piece);
            shown.push_str(step.emit);
            assert!(matched.is_none() || step.matched == matched);
            matched = step.matched;
        }
        shown.push_str(stops.finish());
        (shown, matched)
    }

    /// The definition, on the whole text: the shortest prefix that ends with a stop string.
    fn direct(stops: &[String], text: &str) -> (String, Option<usize>) {
        for end in (1..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let prefix = &text[..end];
            let longest = stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| prefix.ends_with(stop.as_str()))
                .min_by_key(|(index, stop)| (end - stop.len(), *index));
            if let Some((index, stop)) = longest {
                return (prefix[..end - stop.len()].to_string(), Some(index));
            }
        }
        (text.to_string(), None)
    }

    #[test]
    fn holds_back_only_what_may_begin_a_stop_string() {
        let mut stops = matcher(&["</s>", "User:"]);
        assert_eq!(stops.push("Hello <"), StopStep { emit: "Hello ", matched: None });
        assert_eq!(stops.push("/"), StopStep { emit: "", matched: None });
        assert_eq!(stops.push("b> Us"), StopStep { emit: "</b> ", matched: None });
        assert_eq!(stops.push("er"), StopStep { emit: "", matched: None });
        let step = stops.push(": and more");
        assert_eq!((step.emit, step.matched, step.stopped()), ("", Some(1), true));
        assert_eq!(stops.push("dropped"), StopStep { emit: "", matched: Some(1) });
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn finish_returns_the_held_back_rest_once() {
        let mut stops = matcher(&["abc"]);
        assert_eq!(stops.push("xab").emit, "x");
        assert_eq!(stops.finish(), "ab");
        assert_eq!(stops.push("y").emit, "y");
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn the_first_complete_match_wins_and_the_longest_of_those() {
        assert_eq!(stream(&mut matcher(&["abc", "b"]), &["abc"]), ("a".into(), Some(1)));
        assert_eq!(stream(&mut matcher(&["c", "bc", "abc"]), &["xab", "c"]), ("x".into(), Some(2)));
        assert_eq!(stream(&mut matcher(&["aab"]), &["a", "a", "a", "b"]), ("a".into(), Some(0)));
        assert_eq!(stream(&mut matcher(&["q", "q"]), &["pq"]), ("p".into(), Some(0)));
    }

    #[test]
    fn characters_are_never_cut() {
        // The stop string and the text share the first bytes of their last characters.
        let mut stops = matcher(&["né"]);
        assert_eq!(stops.push("nè").emit, "nè");
        assert_eq!(stops.push("🦊n").emit, "🦊");
        assert_eq!(stops.push("é!"), StopStep { emit: "", matched: Some(0) });
    }

    #[test]
    fn without_stop_strings_everything_passes() {
        assert_eq!(stream(&mut matcher(&[]), &["a", "", "b"]), ("ab".into(), None));
    }

    #[test]
    fn reset_starts_afresh() {
        let mut stops = matcher(&["ab"]);
        assert!(stops.push("ab").stopped());
        stops.reset();
        assert_eq!(stops.push("za"), StopStep { emit: "z", matched: None });
        stops.reset();
        assert_eq!(stops.push("b"), StopStep { emit: "b", matched: None });
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopStrings::new(vec!["a".into(), String::new()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "stop string 1: expected at least one character, found an empty string"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_chunking_agrees_with_a_search_of_the_whole_text(
            stops in prop::collection::vec("[abéè🦊]{1,4}", 0..4),
            pieces in prop::collection::vec("[abéè🦊]{0,5}", 0..12),
        ) {
            let mut matcher = StopStrings::new(stops.clone()).unwrap();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let found = stream(&mut matcher, &pieces);
            prop_assert_eq!(found, direct(&stops, &pieces.concat()));
        }

        #[test]
        fn what_is_held_back_is_the_longest_beginning_of_a_stop_string(
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            text in "[abé]{0,12}",
        ) {
            let mut matcher = StopStrings::new(stops.clone()).unwrap();
            let step = matcher.push(&text);
            if !step.stopped() {
                let begins = |held: &str| stops.iter().any(|stop| stop.starts_with(held));
                let expected = text
                    .char_indices()
                    .map(|(at, _)| &text[at..])
                    .find(|suffix| begins(suffix))
                    .unwrap_or("");
                prop_assert_eq!(step.emit, &text[..text.len() - expected.len()]);
            }
        }
    }
}
