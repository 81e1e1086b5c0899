//! The paths that a source file imports: `use a::{b, c::d}` as `a::b` and `a::c::d`.

use super::lexer::Lexed;

/// An imported path and the line (from 0) on which its statement begins.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Use {
    pub(crate) line: usize,
    pub(crate) path: String,
    /// Whether it belongs to tests.
    pub(crate) test: bool,
}

/// Every imported path of a file.
pub(crate) fn uses(lexed: &Lexed) -> Vec<Use> {
    let mut found = Vec::new();
    let mut line = 0;
    while line < lexed.code.len() {
        let start = line;
        if let Some(rest) = statement_start(&lexed.code[line]) {
            let mut tree = rest.to_owned();
            while !tree.contains(';') && line + 1 < lexed.code.len() {
                line += 1;
                tree.push(' ');
                tree.push_str(&lexed.code[line]);
            }
            let tree = tree.split(';').next().unwrap_or("");
            let mut paths = Vec::new();
            flatten("", tree, &mut paths);
            found.extend(paths.into_iter().map(|path| Use {
                line: start,
                path,
                test: lexed.test[start],
            }));
        }
        line += 1;
    }
    found
}

/// What follows `use` where a statement begins with it, behind an optional visibility.
fn statement_start(code: &str) -> Option<&str> {
    let mut code = code.trim_start();
    if let Some(rest) = code.strip_prefix("pub") {
        let rest = rest.trim_start();
        code = match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1.trim_start(),
            None => rest,
        };
    }
    code.strip_prefix("use ")
}

fn flatten(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    match tree.split_once('{') {
        None => {
            let name = tree.split_whitespace().next().unwrap_or("");
            if !name.is_empty() {
                let path = format!("{prefix}{name}");
                paths.push(path.strip_suffix("::self").unwrap_or(&path).to_owned());
            }
        }
        Some((head, inner)) => {
            let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
            let head = format!("{prefix}{}", head.trim());
            let mut depth = 0;
            let mut start = 0;
            for (at, c) in inner.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        flatten(&head, &inner[start..at], paths);
                        start = at + 1;
                    }
                    _ => {}
                }
            }
            flatten(&head, &inner[start..], paths);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_flattened() {
        let lexed = Lexed::new(
            "use a::b;\npub(crate) use std::{\n    fs::{self, File},\n    net as n,\n};\nuse c::*;\nlet user = 1;\n#[cfg(test)]\nuse t::x as y;\n",
        );
        let got: Vec<(usize, String, bool)> = uses(&lexed)
            .into_iter()
            .map(|u| (u.line, u.path, u.test))
            .collect();
        let want = [
            (0, "a::b", false),
            (1, "std::fs", false),
            (1, "std::fs::File", false),
            (1, "std::net", false),
            (5, "c::*", false),
            (8, "t::x", true),
        ];
        assert_eq!(got, want.map(|(l, p, t)| (l, p.to_owned(), t)));
    }
}
