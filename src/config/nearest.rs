//! Finds the setting that was meant by a name that isn't one.

use super::schema::SECTIONS;

/// The key of the known setting nearest to a name that isn't one: by few changed letters, or the same name elsewhere.
pub(super) fn nearest(section_name: &str, name: &str) -> String {
    let mut best: Option<(usize, String)> = None;
    let mut offer = |distance: usize, key: String| {
        if best.as_ref().is_none_or(|(least, _)| distance < *least) {
            best = Some((distance, key));
        }
    };
    for section in SECTIONS {
        for setting in section.settings {
            if section.name == section_name {
                offer(distance(name, setting.name), section.key(setting.name));
            } else if setting.name == name {
                offer(1, section.key(name));
            }
        }
        if section_name.is_empty() && !section.name.is_empty() {
            let brackets = if section.repeated { format!("[[{}]]", section.name) } else { format!("[{}]", section.name) };
            offer(distance(name, section.name), brackets);
        }
    }
    best.map(|(_, key)| key).unwrap_or_default()
}

/// Levenshtein distance: letters to insert, remove or change. Names longer than any of ours are cut, which keeps it cheap.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_meant() {
        for (section, name, key) in [
            ("limits", "mesage_size", "limits.message_size"),
            ("", "hostnam", "hostname"),
            ("", "message_size", "limits.message_size"),
            ("", "listeners", "[[listener]]"),
            ("", "spol", "[spool]"),
            ("retry", "fist", "retry.first"),
            ("listener", "adress", "listener.address"),
            ("remote", "first", "retry.first"),
        ] {
            assert_eq!(nearest(section, name), key);
        }
    }
}
