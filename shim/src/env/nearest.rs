//! What a misspelt word was probably meant to be.

/// How alike two words must be, from 0 to 1: `nodjs` and `nodejs` are, `go` and `aws` are not.
const ALIKE: f64 = 0.75;

/// The known word that is most like this one, if one is alike enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    several(word, known, 1).pop()
}

/// Up to `most` known words that are like this one, the most alike first.
pub fn several<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let word = word.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|candidate| (likeness(&word, candidate), candidate))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    // Equally alike words stand in the order of the alphabet, so that the answer is always the same.
    scored.sort_by(|(a, first), (b, second)| b.total_cmp(a).then_with(|| first.cmp(second)));
    scored.dedup();
    scored.into_iter().take(most).map(|(_, candidate)| candidate).collect()
}

/// Typing errors count, and so does a beginning in common: whoever writes `nodejs` means `nodejs_24`.
fn likeness(word: &str, candidate: &str) -> f64 {
    // A candidate that is much longer or shorter cannot be meant; this also bounds the work per candidate.
    if word.len().abs_diff(candidate.len()) > word.len().max(4) {
        return 0.0;
    }
    let candidate = candidate.to_lowercase();
    let slips = strsim::damerau_levenshtein(word, &candidate);
    let longest = word.chars().count().max(candidate.chars().count()).max(1);
    // Lengths of words are small numbers.
    #[allow(clippy::cast_precision_loss)]
    let typing = match slips {
        // One slip in a short word is a large part of it, and no less a slip.
        1 if word.chars().count() >= 3 => (1.0 - 1.0 / longest as f64).max(ALIKE),
        slips => 1.0 - slips as f64 / longest as f64,
    };
    let begins = |long: &str, short: &str| short.len() >= 3 && long.starts_with(short);
    let beginning = if begins(&candidate, word) || begins(word, &candidate) { 0.8 } else { 0.0 };
    typing.max(beginning)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETS: [&str; 5] = ["nodejs", "python", "go", "rust", "kubernetes"];

    #[test]
    fn typing_errors_are_understood() {
        for (word, meant) in [
            ("nodjs", "nodejs"),
            ("pyhton", "python"),
            ("kubernets", "kubernetes"),
            ("GO", "go"),
            ("rsut", "rust"),
        ] {
            assert_eq!(nearest(word, SETS), Some(meant), "{word}");
        }
    }

    #[test]
    fn a_word_of_another_world_is_like_none() {
        assert_eq!(nearest("haskell", SETS), None);
        assert_eq!(nearest("", SETS), None);
    }

    #[test]
    fn versions_of_what_was_meant_are_listed() {
        let known = ["nodejs_22", "nodejs_24", "nodejs-slim", "node2nix", "python312"];
        assert_eq!(several("nodejs", known, 3), ["nodejs-slim", "nodejs_22", "nodejs_24"]);
        assert_eq!(several("nodejs_23", known, 2), ["nodejs_22", "nodejs_24"]);
        assert_eq!(several("python3", known, 2), ["python312"]);
    }
}
