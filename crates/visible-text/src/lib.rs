//! Checks of texts that users see: a text must show something, and a name or title must not change the
//! direction of the text around it.

/// Returns true if at least one character of the text leaves a mark on the screen. Whitespace, control
/// characters, fillers and default-ignorable code points leave none.
pub fn is_visible(text: &str) -> bool {
    text.chars().any(|char| !char.is_whitespace() && !char.is_control() && !is_blank(char))
}

/// Returns true for a text that may be a name or title: 1 to `chars_max` characters, at least one of them
/// visible. No control characters, which include line breaks, and no bidirectional ones. Reads at most
/// `chars_max + 1` characters of a longer text.
pub fn is_label(text: &str, chars_max: usize) -> bool {
    text.chars().nth(chars_max).is_none()
        && is_visible(text)
        && !text.chars().any(|char| char.is_control() || is_bidi_control(char))
}

/// Returns true for a bidirectional embedding, override or isolate (UAX #9). An unclosed one reverses the
/// text that follows a name or title. The marks U+061C, U+200E and U+200F are harmless.
pub fn is_bidi_control(char: char) -> bool {
    matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns true for the code points with the property Default_Ignorable_Code_Point (Unicode 17), which
/// include the Hangul fillers and the variation selectors, and for the empty Braille pattern.
fn is_blank(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First and last code points of every range without a mark.
    const BLANK: &str = "\t\n\r \u{85}\u{a0}\u{2028}\u{2029}\u{3000}\0\u{7f}\
        \u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{180b}\u{180e}\u{180f}\
        \u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{206f}\
        \u{2800}\u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff0}\u{fff8}\
        \u{1bca0}\u{1bca3}\u{1d173}\u{1d17a}\u{e0000}\u{e0001}\u{e007f}\u{e0100}\u{e01ef}\u{e0fff}";

    #[test]
    fn blank_characters_are_not_visible() {
        for char in BLANK.chars() {
            assert!(!is_visible(&char.to_string()), "{char:?}");
        }
        assert!(!is_visible(""));
        assert!(!is_visible(BLANK));
    }

    #[test]
    fn one_visible_character_is_enough() {
        for visible in ["a", ".", "李", "한", "ᄀ", "א", "م", "🐎", "\u{2801}", "\u{e000}", "\u{fffd}"]
        {
            assert!(is_visible(visible), "{visible:?}");
            assert!(is_visible(&format!("{BLANK}{visible}{BLANK}")), "{visible:?}");
        }
    }

    #[test]
    fn sequences_with_joiners_selectors_and_combining_marks_are_visible() {
        for text in [
            "❤\u{fe0f}",
            "1\u{fe0f}\u{20e3}",
            "👩\u{200d}👩\u{200d}👧",
            "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
            "葛\u{e0100}",
            "e\u{301}",
            "नि",
            "می\u{200c}خواهم",
            "\u{202b}שלום\u{202c}",
        ] {
            assert!(is_visible(text), "{text:?}");
        }
    }

    #[test]
    fn embeddings_overrides_and_isolates_are_bidirectional_controls() {
        for char in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert!(is_bidi_control(char), "{char:?}");
            assert!(!is_label(&format!("a{char}b"), 3), "{char:?}");
        }
        for text in
            ["ann", "אב", "\u{200e}a\u{200f}", "\u{61c}a", "\u{2029}a", "\u{202f}a", "\u{2065}a", "\u{206a}a"]
        {
            assert!(!text.chars().any(is_bidi_control), "{text:?}");
            assert!(is_label(text, 3), "{text:?}");
        }
    }

    #[test]
    fn a_label_has_a_visible_character_and_is_one_line_of_limited_length() {
        for good in ["a", "🐎🐎🐎", " a "] {
            assert!(is_label(good, 3), "{good:?}");
        }
        for bad in ["", " ", "\u{200b}", "aaaa", "a\n", "a\0", "\u{7f}a", "a\u{85}"] {
            assert!(!is_label(bad, 3), "{bad:?}");
        }
    }
}
