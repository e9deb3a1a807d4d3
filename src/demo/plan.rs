//! The people, the dialogs that they create, and their turns: chosen without any I/O, with randomness as an
//! argument.

/// Names of people; more people have a number too.
const NAMES: [&str; 20] = [
    "ana", "ben", "cleo", "dan", "eva", "finn", "gina", "hugo", "iris", "jack", "kim", "leo", "mia", "noah",
    "olga", "paul", "rita", "sam", "tess", "zoe",
];
/// Titles of groups; more groups have a number too.
const TITLES: [&str; 8] = [
    "Lunch",
    "Weekend hike",
    "Book club",
    "Band practice",
    "Football",
    "Summer holiday",
    "Chess evening",
    "Garden",
];
const SENTENCES: [&str; 24] = [
    "Good morning!",
    "Are you coming today?",
    "Yes, I will be there at noon.",
    "I am running ten minutes late.",
    "Did you see the pictures?",
    "They are great, thank you.",
    "Can somebody bring bread?",
    "I have already bought some.",
    "The train is full again.",
    "Let us meet at the station.",
    "Which platform is it?",
    "Platform four, I think.",
    "It is raining here.",
    "Then we take the bus.",
    "Call me when you are home.",
    "I will.",
    "That was a good idea.",
    "Shall we do it again next week?",
    "Tuesday would be fine.",
    "Tuesday it is.",
    "Who has the tickets?",
    "I do, all of them.",
    "See you later!",
    "Good night.",
];
/// Sends of which one is followed by a deletion.
const SENDS_OF_A_DELETION: usize = 25;
/// Of five sends, three are followed by a read.
const SENDS_OF_READS: (usize, usize) = (3, 5);

/// Returns a random number below its argument, which is not 0.
pub type Dice<'a> = &'a mut (dyn FnMut(usize) -> usize + Send);

/// Returns the name of a person.
pub fn name(person: usize) -> String {
    numbered(&NAMES, person)
}

fn numbered(names: &[&str], index: usize) -> String {
    let name = names[index % names.len()];
    match index / names.len() {
        0 => name.to_owned(),
        round => format!("{name}{}", round + 1),
    }
}

/// Dialog to create.
#[derive(Debug, PartialEq, Eq)]
pub struct Draft {
    /// Title of a group; `None` for a direct dialog.
    pub title: Option<String>,
    /// Participants; the first one creates it.
    pub members: Vec<usize>,
}

/// Plans the dialogs of at least two people: groups and direct dialogs in turn. Every person is in a group,
/// and no two direct dialogs have the same people, so there may be fewer of these.
pub fn dialogs(people: usize, count: usize) -> Vec<Draft> {
    let strides = 1..=people / 2;
    let pairs = strides.flat_map(|stride| (0..people).map(move |first| [first, (first + stride) % people]));
    // Half way round the circle, each pair is met twice.
    let pairs = pairs.take(people * (people - 1) / 2);
    let direct = pairs.take(count / 2).map(|pair| Draft { title: None, members: pair.to_vec() });
    let direct: Vec<Draft> = direct.collect();
    let groups = count - direct.len();
    let size = (people.div_ceil(groups) + 1).max(3).min(people);
    let group = |number: usize| Draft {
        title: Some(numbered(&TITLES, number)),
        members: (0..size).map(|offset| (number * people / groups + offset) % people).collect(),
    };
    let mut direct = direct.into_iter();
    (0..groups).flat_map(|number| [Some(group(number)), direct.next()]).flatten().collect()
}

/// One message and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    pub author: usize,
    pub dialog: usize,
    pub text: &'static str,
    /// Person who then reads in one of the dialogs with unread messages.
    pub reader: Option<usize>,
    /// The author then deletes a message.
    pub deletes: bool,
}

/// Chooses a turn. `unread` has the number of unread messages of each person.
pub fn turn(dialogs: &[Vec<usize>], unread: &[i64], dice: Dice<'_>) -> Turn {
    let dialog = dice(dialogs.len());
    let members = &dialogs[dialog];
    let author = members[dice(members.len())];
    let text = SENTENCES[dice(SENTENCES.len())];
    let (reads, sends) = SENDS_OF_READS;
    let waiting: Vec<usize> = (0..unread.len()).filter(|person| unread[*person] > 0).collect();
    let reader = (dice(sends) < reads && !waiting.is_empty()).then(|| waiting[dice(waiting.len())]);
    Turn { author, dialog, text, reader, deletes: dice(SENDS_OF_A_DELETION) == 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_number_of_people_and_dialogs_has_a_plan() {
        for people in 2..=100 {
            for count in 1..=100 {
                let drafts = dialogs(people, count);
                assert_eq!(drafts.len(), count, "{people} people");
                let mut pairs = BTreeSet::new();
                let mut grouped = BTreeSet::new();
                for draft in &drafts {
                    let members: BTreeSet<usize> = draft.members.iter().copied().collect();
                    assert_eq!(members.len(), draft.members.len(), "{people} people: {draft:?}");
                    assert!(members.iter().all(|member| *member < people));
                    match draft.title {
                        Some(_) => grouped.extend(members),
                        None => assert!(members.len() == 2 && pairs.insert(members), "{people}: {draft:?}"),
                    }
                }
                assert_eq!(grouped.len(), people, "{people} people, {count} dialogs");
            }
        }
        assert!(dialogs(2, 4).iter().filter(|draft| draft.title.is_none()).count() == 1);
    }

    #[test]
    fn names_and_titles_differ() {
        let names: BTreeSet<String> = (0..100).map(name).collect();
        assert_eq!(names.len(), 100);
        assert_eq!((name(0), name(20), name(41)), ("ana".to_owned(), "ana2".to_owned(), "ben3".to_owned()));
    }

    #[test]
    fn a_turn_is_of_a_member_and_only_a_person_with_unread_messages_reads() {
        let dialogs = [vec![0, 1], vec![1, 2]];
        let mut rolls = [1, 1, 5, 2, 0, 0].into_iter();
        let mut dice = |below: usize| rolls.next().filter(|roll| *roll < below).unwrap();
        let chosen = turn(&dialogs, &[0, 4, 0], &mut dice);
        let text = SENTENCES[5];
        assert_eq!(chosen, Turn { author: 2, dialog: 1, text, reader: Some(1), deletes: true });
        let mut rolls = [0, 0, 0, 0, 3].into_iter();
        let mut dice = |_| rolls.next().unwrap();
        let chosen = turn(&dialogs, &[0, 0, 0], &mut dice);
        assert_eq!((chosen.author, chosen.reader, chosen.deletes), (0, None, false));
    }
}
