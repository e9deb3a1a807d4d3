//! Checks of short texts that users see as labels: a label must show something, and must not change the
//! direction of the text around it.

/// Returns true if at least one character of the text leaves a mark on the screen. Whitespace, control
/// characters, fillers and default-ignorable code points leave none.
pub(crate) fn is_visible(text: &str) -> bool {
    text.chars().any(|char| !char.is_whitespace() && !char.is_control() && !is_blank(char))
}

/// Returns true if the text has a bidirectional embedding, override or isolate (UAX #9). An unclosed one
/// reverses the text that follows the label. The marks U+061C, U+200E and U+200F are harmless.
pub(crate) fn has_bidi_control(text: &str) -> bool {
    text.chars().any(|char| matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
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

    #[test]
    fn blank_characters_alone_are_not_visible() {
        for blank in [
            "",
            " \t\r\n",
            "\0\u{7f}",
            "\u{a0}\u{3000}",
            "\u{2028}",
            "\u{ad}",
            "\u{34f}",
            "\u{61c}",
            "\u{115f}",
            "\u{1160}",
            "\u{17b4}",
            "\u{180e}",
            "\u{200b}",
            "\u{200c}\u{200d}",
            "\u{200e}\u{200f}",
            "\u{202e}",
            "\u{2060}",
            "\u{2069}",
            "\u{2800}",
            "\u{3164}",
            "\u{fe0f}",
            "\u{feff}",
            "\u{ffa0}",
            "\u{fff0}",
            "\u{1bca0}",
            "\u{1d173}",
            "\u{e0001}",
            "\u{e0100}",
            "\u{e0fff}",
            " \u{200b}\u{3164}\u{fe0f} ",
        ] {
            assert!(!is_visible(blank), "{blank:?}");
        }
    }

    #[test]
    fn one_visible_character_is_enough() {
        for text in
            ["a", ".", "李", "한", "🐎", "❤\u{fe0f}", "👩\u{200d}👧", "\u{200b}a", "\u{2801}", "\u{e000}"]
        {
            assert!(is_visible(text), "{text:?}");
        }
    }

    #[test]
    fn embeddings_overrides_and_isolates_are_bidirectional_controls() {
        for char in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert!(has_bidi_control(&format!("a{char}b")), "{char:?}");
        }
        for text in
            ["", "ann", "אב", "\u{200e}a\u{200f}", "\u{61c}", "\u{2029}", "\u{202f}", "\u{2065}", "\u{206a}"]
        {
            assert!(!has_bidi_control(text), "{text:?}");
        }
    }
}
