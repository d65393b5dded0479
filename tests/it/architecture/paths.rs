//! The paths that code names, `use` trees expanded, and the names that `use` binds in a module.

/// Words after which a path may begin with `::`.
const KEYWORDS: &[&str] =
    &["use", "return", "as", "dyn", "impl", "for", "in", "mut", "pub", "else", "match", "if"];

/// A name that a module has from elsewhere.
#[derive(Debug, PartialEq)]
pub(super) struct Import<'a> {
    /// The name in this module; `*` stands for all names of the path.
    pub(super) name: &'a str,
    /// The path that `use` gives, without `self` or `*` at its end.
    pub(super) path: Vec<&'a str>,
}

/// Every path of the code, `use` trees expanded; single words only where `use` names them.
pub(super) fn paths<'a>(tokens: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        // `use ::name` names the crate `name` as well.
        let single = tokens[..position].ends_with(&["use"]) || tokens[..position].ends_with(&["use", "::"]);
        let start = position;
        if is_word(tokens[position]) && !KEYWORDS.contains(&tokens[position]) {
            expand(tokens, &mut position, &[], single, &mut found);
        }
        position = position.max(start + 1);
    }
    found.into_iter().map(|(path, _)| path).collect()
}

/// The names that `use` binds outside of every function and block.
pub(super) fn imports<'a>(tokens: &[&'a str]) -> Vec<Import<'a>> {
    let mut found = Vec::new();
    for position in at_the_top(tokens).filter(|position| tokens[*position] == "use") {
        let mut position = position + 1;
        expand(tokens, &mut position, &[], true, &mut found);
        if tokens.get(position) == Some(&"as")
            && let (Some(last), Some(name)) = (found.last_mut(), tokens.get(position + 1))
        {
            last.1 = Some(name);
        }
    }
    let bound = found.into_iter().filter_map(|(mut path, alias)| {
        let all = path.pop_if(|last| *last == "*").is_some();
        path.pop_if(|last| *last == "self");
        let name = if all { "*" } else { alias.or_else(|| path.last().copied())? };
        Some(Import { name, path })
    });
    bound.collect()
}

/// The names of the items that stand outside of every function and block.
pub(super) fn definitions<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    const ITEMS: &[&str] =
        &["fn", "struct", "enum", "trait", "type", "const", "static", "union", "mod", "macro_rules"];
    at_the_top(tokens)
        .filter(|position| ITEMS.contains(&tokens[*position]))
        .filter_map(|position| {
            let name = tokens[position + 1..].iter().find(|token| !matches!(**token, "!" | "mut"))?;
            // `const fn` has its name after `fn`; `mod name;` is a file of its own.
            let declared = tokens[position] == "mod" && tokens.get(position + 2) == Some(&";");
            (is_word(name) && !ITEMS.contains(name) && !declared).then_some(*name)
        })
        .collect()
}

/// The positions of the tokens that no bracket encloses.
pub(super) fn at_the_top<'t>(tokens: &'t [&str]) -> impl Iterator<Item = usize> + 't {
    let mut depth = 0_usize;
    (0..tokens.len()).filter(move |position| {
        match tokens[*position] {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    })
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Reads the path, or the tree of paths, at `position`; each with the name that `as` gives it.
fn expand<'a>(
    tokens: &[&'a str],
    position: &mut usize,
    prefix: &[&'a str],
    single: bool,
    found: &mut Vec<(Vec<&'a str>, Option<&'a str>)>,
) {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(*position) {
            Some(&"{") if !path.is_empty() => {
                *position += 1;
                while tokens.get(*position).is_some_and(|token| *token != "}") {
                    let before = *position;
                    expand(tokens, position, &path, true, found);
                    if tokens.get(*position) == Some(&"as") {
                        if let Some(last) = found.last_mut() {
                            last.1 = tokens.get(*position + 1).copied();
                        }
                        *position += 2;
                    }
                    if tokens.get(*position) == Some(&",") || *position == before {
                        *position += 1;
                    }
                }
                *position += 1;
                return;
            }
            Some(word) if is_word(word) || *word == "*" => path.push(word),
            _ => break,
        }
        *position += 1;
        if tokens.get(*position) != Some(&"::") {
            break;
        }
        *position += 1;
    }
    if path.len() > 1 || single && !path.is_empty() {
        found.push((path, None));
    }
}
