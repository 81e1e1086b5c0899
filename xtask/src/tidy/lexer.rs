//! Splits Rust source into code and comments, line by line, and finds what belongs to tests. Just
//! enough of the language (The Rust Reference, "Lexical structure") that a rule never takes a
//! string or a comment for code.

/// A source file, with code and comments apart.
#[derive(Debug, Default)]
pub(crate) struct Lexed {
    /// The code of each line: comments and the contents of literals are blanks.
    pub(crate) code: Vec<String>,
    /// The comments of each line, without code.
    pub(crate) comments: Vec<String>,
    /// Whether the line belongs to an item under `#[cfg(test)]`.
    pub(crate) test: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum In {
    Code,
    LineComment,
    BlockComment(u32),
    /// A literal that ends at this quote, with escapes.
    Quoted(char),
    /// A raw string that ends at a quote and this many `#`.
    Raw(usize),
}

impl Lexed {
    pub(crate) fn new(text: &str) -> Self {
        let mut lexed = split(text);
        lexed.test = vec![false; lexed.code.len()];
        lexed.mark_tests();
        lexed
    }

    /// The comments that stand for `line` (from 0): its own, those of up to `lines` lines above,
    /// and the rest of a comment block that begins among them.
    pub(crate) fn comments_above(&self, line: usize, lines: usize) -> String {
        let mut first = line.saturating_sub(lines);
        while first > 0 && self.is_comment(first) && self.is_comment(first - 1) {
            first -= 1;
        }
        self.comments[first..=line].join("\n")
    }

    fn is_comment(&self, line: usize) -> bool {
        self.code[line].trim().is_empty() && !self.comments[line].trim().is_empty()
    }

    fn mark_tests(&mut self) {
        let mut line = 0;
        while line < self.code.len() {
            let code: String = self.code[line].split_whitespace().collect();
            if code.contains("#[cfg(test)]") || code.contains("#[cfg(all(test,") {
                let end = self.item_end(line);
                self.test[line..=end].fill(true);
                line = end;
            }
            line += 1;
        }
    }

    /// The last line of the item whose attribute stands on `line`.
    fn item_end(&self, line: usize) -> usize {
        let mut depth = 0_i32;
        let mut brackets = 0_i32;
        for (n, code) in self.code.iter().enumerate().skip(line) {
            for c in code.chars() {
                match c {
                    '[' | '(' => brackets += 1,
                    ']' | ')' => brackets -= 1,
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if (c == '}' && depth <= 0) || (c == ';' && depth == 0 && brackets == 0) {
                    return n;
                }
            }
        }
        self.code.len() - 1
    }
}

fn split(text: &str) -> Lexed {
    let chars: Vec<char> = text.chars().collect();
    let mut lexed = Lexed::default();
    let (mut code, mut comment) = (String::new(), String::new());
    let mut state = In::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let next = chars.get(i + 1).copied();
        if c == '\n' {
            lexed.code.push(std::mem::take(&mut code));
            lexed.comments.push(std::mem::take(&mut comment));
            if state == In::LineComment {
                state = In::Code;
            }
            i += 1;
            continue;
        }
        let mut step = 1;
        match state {
            In::Code => {
                if c == '/' && next == Some('/') {
                    state = In::LineComment;
                    comment.push_str("//");
                    step = 2;
                } else if c == '/' && next == Some('*') {
                    state = In::BlockComment(1);
                    step = 2;
                } else if c == '"' {
                    code.push('"');
                    state = In::Quoted('"');
                } else if let Some(hashes) = raw_string(&chars, i) {
                    code.push('"');
                    state = In::Raw(hashes);
                    step = hashes + 2;
                } else if c == '\'' && is_char_literal(&chars, i) {
                    code.push('\'');
                    state = In::Quoted('\'');
                } else {
                    code.push(c);
                }
            }
            In::LineComment => comment.push(c),
            In::BlockComment(depth) => {
                if c == '*' && next == Some('/') {
                    state = if depth == 1 {
                        In::Code
                    } else {
                        In::BlockComment(depth - 1)
                    };
                    step = 2;
                } else if c == '/' && next == Some('*') {
                    state = In::BlockComment(depth + 1);
                    step = 2;
                } else {
                    comment.push(c);
                }
            }
            In::Quoted(quote) => {
                if c == '\\' {
                    // An escaped line break must still end the line.
                    step = if next == Some('\n') { 1 } else { 2 };
                } else if c == quote {
                    code.push(quote);
                    state = In::Code;
                }
            }
            In::Raw(hashes) => {
                let closes = c == '"'
                    && chars.len() > i + hashes
                    && chars[i + 1..=i + hashes].iter().all(|h| *h == '#');
                if closes {
                    code.push('"');
                    state = In::Code;
                    step = 1 + hashes;
                }
            }
        }
        i += step;
    }
    if !code.is_empty() || !comment.is_empty() {
        lexed.code.push(code);
        lexed.comments.push(comment);
    }
    lexed
}

/// The number of `#` when a raw string begins with the `r` at `i` (`r"`, `r#"`, `br#"`).
fn raw_string(chars: &[char], i: usize) -> Option<usize> {
    if chars[i] != 'r' {
        return None;
    }
    let mut before = chars[..i].iter().rev();
    let joined = match before.next() {
        Some('b' | 'c') => before.next().is_some_and(|c| is_word(*c)),
        Some(c) => is_word(*c),
        None => false,
    };
    if joined {
        return None;
    }
    let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(i + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Whether the quote at `i` begins a character and not a lifetime.
fn is_char_literal(chars: &[char], i: usize) -> bool {
    match chars.get(i + 1) {
        Some('\\') => true,
        Some(_) => chars.get(i + 2) == Some(&'\''),
        None => false,
    }
}

/// Whether `c` can be part of an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `code` holds `word` with no identifier character on either side.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_no_code() {
        let lexed = Lexed::new(
            r####"let a = "unsafe // x"; // unsafe here
let b = r#"a "quoted" unsafe"#; /* unsafe /* nested */ still */ let c = 'u';
let d = '"'; let e: &'static str = "\"unsafe"; let f = br##"unsafe"##;
let g = "one \
unsafe line"; let h = b'\''; done();
"####,
        );
        assert!(
            lexed.code.iter().all(|l| !l.contains("unsafe")),
            "{:#?}",
            lexed.code
        );
        assert_eq!(lexed.code.len(), 5);
        assert!(lexed.comments[0].contains("unsafe here"));
        assert!(lexed.comments[1].contains("nested"));
        assert!(lexed.code[1].contains("let c"));
        assert!(lexed.code[2].contains("&'static str"));
        assert!(lexed.code[4].contains("done();"));
    }

    #[test]
    fn test_items_are_marked_to_their_end() {
        let lexed = Lexed::new(
            "fn a() {}\n#[cfg(test)]\nuse x::{a, b};\nfn b() {}\n#[cfg(test)]\nmod tests {\n    fn c() { if x { } }\n}\nfn d() {}\n#[cfg(test)]\nmod t;\n#[cfg(not(test))]\nfn e() {}\n",
        );
        let tests: Vec<usize> = (0..lexed.code.len()).filter(|n| lexed.test[*n]).collect();
        assert_eq!(tests, [1, 2, 4, 5, 6, 7, 9, 10]);
    }

    #[test]
    fn words_have_edges() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("deny(unsafe_code)", "unsafe"));
        assert!(has_word("a::rand::b", "rand"));
        assert!(!has_word("operand", "rand"));
    }

    #[test]
    fn comments_above_follow_their_block() {
        let lexed = Lexed::new(
            "// overflow: drop\n// because\n// of\n// this\nlet q = channel(\n    8,\n);\n",
        );
        assert!(lexed.comments_above(4, 3).contains("overflow:"));
        assert!(!lexed.comments_above(6, 1).contains("overflow:"));
    }
}
