//! Names of entity types and classes as the encoder reads them: words, not identifiers. Training and serving both use it, or
//! they would compare different things.

/// Names whose long form is what an encoder knows.
const SHORT_FORMS: [(&str, &str); 9] = [
    ("per", "person"),
    ("pers", "person"),
    ("loc", "location"),
    ("org", "organization"),
    ("misc", "miscellaneous"),
    ("gpe", "geopolitical entity"),
    ("fac", "facility"),
    ("veh", "vehicle"),
    ("num", "number"),
];

/// `Refund_not_showing_up` → `refund not showing up`, `AddToPlaylist` → `add to playlist`, `alarm/set_alarm` → `alarm set alarm`,
/// `PER` → `person`. Never empty for a name that is not blank: one of punctuation alone stays as it is.
pub fn spoken_name(name: &str) -> String {
    let mut spoken = String::with_capacity(name.len() + 4);
    let mut before = ' ';
    for letter in name.chars() {
        if !letter.is_alphanumeric() {
            spoken.push(' ');
        } else {
            let begins_word = letter.is_uppercase() && before.is_lowercase();
            spoken.extend(begins_word.then_some(' '));
            spoken.extend(letter.to_lowercase());
        }
        before = letter;
    }
    let words = spoken.split_whitespace().collect::<Vec<_>>().join(" ");
    match SHORT_FORMS.iter().find(|(short, _)| *short == words) {
        Some((_, long)) => (*long).to_owned(),
        None if words.is_empty() => name.trim().to_owned(),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_become_words() {
        for (name, expected) in [
            ("Refund_not_showing_up", "refund not showing up"),
            ("AddToPlaylist", "add to playlist"),
            ("alarm/set_alarm", "alarm set alarm"),
            ("arrive_date.date_relative", "arrive date date relative"),
            ("Generic-Measure", "generic measure"),
            ("PER", "person"),
            ("loc", "location"),
            ("persons", "persons"),
            ("GGP", "ggp"),
            ("  Sci/Tech ", "sci tech"),
            ("Größe", "größe"),
            ("?!", "?!"),
        ] {
            assert_eq!(spoken_name(name), expected, "{name}");
        }
    }
}
