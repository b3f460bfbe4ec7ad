//! Patterns of subjects.

/// Whether a whole text matches: `*` is any text, `?` one character. Linear in memory, no recursion.
pub(super) fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<_>, Vec<_>) = (glob.chars().collect(), text.chars().collect());
    let (mut at_glob, mut at_text) = (0, 0);
    // Where to go on when a guess of what the last `*` covers was too short.
    let mut retry: Option<(usize, usize)> = None;
    while at_text < text.len() {
        if glob.get(at_glob) == Some(&'*') {
            retry = Some((at_glob, at_text));
            at_glob += 1;
        } else if glob.get(at_glob).is_some_and(|wanted| *wanted == '?' || *wanted == text[at_text]) {
            at_glob += 1;
            at_text += 1;
        } else if let Some((star, covered)) = retry {
            retry = Some((star, covered + 1));
            at_glob = star + 1;
            at_text = covered + 1;
        } else {
            return false;
        }
    }
    glob[at_glob..].iter().all(|rest| *rest == '*')
}
