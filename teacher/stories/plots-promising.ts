/**
 * Plots that turn on words: a password, a message, a name, a promise, a song; and on who belongs to what.
 */
import { clothes, colours, flowers, petNames, pets, relatives, secretWords, weekdays } from './lexicon.ts';
import { maybe, type Plot, step } from './plot.ts';

const password: Plot = {
  name: 'password',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      friend: pick.friendOf(hero),
      secret: pick.one(secretWords),
      wrong: pick.one(secretWords),
      hut: pick.one(['tree house', 'hut', 'tent', 'cave', 'den', 'fort']),
      place: pick.outdoors(),
      treat: pick.one(['lemonade', 'biscuits', 'nuts', 'cocoa', 'warm bread', 'cherry juice']),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{friend} had a secret {hut} {place.where}.',
        '{place.where}, {friend} and {friend.their} [sisters|brothers] had built a {hut}.',
      ),
      step(
        '"If you want to come in, you must say the secret word," {friend.they} told {hero}. "It is {secret}."',
        '"The secret word is {secret}," {friend} whispered into {hero}\'s ear.',
        'Only those who knew the word {secret} were let in. {Friend} told it to {hero}.',
      ),
      step(
        '"I will not tell anyone," {hero} promised.',
        '{hero} nodded and said it three times without a sound.',
        '"I can remember that," said {hero}.',
      ),
    ],
    [
      step(
        '{when}, {hero} went there alone.',
        'A week went by before {hero} could go there.',
        'Soon after that, {hero} wanted to visit {friend.them} in the {hut}.',
      ),
      step(
        'On the way {hero.they} had to [jump over a stream|run from an angry goose], and the word was gone from {hero.their} head.',
        'It [rained|was very hot], and {hero.they} [ran|walked] so far that {hero.they} could think of nothing else.',
        'A big dog barked at {hero.them}, and {hero.they} had to wait until it went away.',
      ),
      step(
        'The door was closed. "What is the word?" asked a voice.',
        '{hero} knocked. "Stop! Say the word," called {friend} from inside.',
        '"Who is there, and what is the word?" someone asked.',
      ),
      maybe(
        '"{wrong}?" asked {hero}. "No," said the voice. "Try again."',
        '{hero} thought of many words. "{wrong}!" {hero.they} said, but the door stayed closed.',
      ),
    ],
    [
      step(
        'Then {hero} remembered. "{!secret}!" {hero.they} called, and the door opened.',
        '"{!secret}," said {hero}, and {friend} let {hero.them} in.',
        '{hero} took a deep breath and said, "{!Secret}." The door opened at once.',
      ),
      step(
        'Inside there was {treat}, and they [played cards|told stories] until evening.',
        '{friend} [poured|shared] some {treat} and they sat by the window of the {!hut}.',
        '"Welcome to the {!hut}," said {friend}. They had {treat} and laughed a lot.',
      ),
      maybe('"Tomorrow we will need a new word," said {friend}.', '"I thought you had forgotten it," said {friend}.'),
    ],
  ],
};

const message: Plot = {
  name: 'message',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      sender: pick.neighbour(),
      receiver: pick.neighbour(),
      wrong: pick.neighbour(),
      thing: pick.thing(),
      place: pick.place(),
      day: pick.one(weekdays),
      hour: pick.one(['three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten']),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '"Will you take {thing.a} to {receiver} for me?" {sender} asked {hero} {when}.',
        '{when}, {sender} came to {hero} with {thing.a}. "It is for {receiver}," {sender.they} said.',
        '{when}, {hero} had to carry {thing.a} from {sender} to {receiver}.',
      ),
      step(
        '"And say that I will come on {day} at {hour}," {sender.they} added.',
        '"Please say that we meet on {day} at {hour}," said {sender}.',
        'There was a message too: "Come on {day} at {hour}."',
      ),
      maybe('"{day} at {hour}," repeated {hero} and set off.', '{hero} held it with both hands and set off.'),
    ],
    [
      step(
        '{place.where}, {hero} met {wrong}. "Is that for me?" asked {wrong}.',
        'On the way {hero} came {place.past}, and {wrong} called, "What have you got there?"',
        '{wrong} stood {place.where} and wanted to [talk|see what {hero} carried].',
      ),
      step(
        '"No," said {hero}. "The {!thing.short} is for {!receiver}."',
        '"It is not mine," {hero} answered. "{!sender} sends it to {!receiver}."',
        'But {hero} shook {hero.their} head. "I have to bring it to {!receiver}," {hero.they} said.',
      ),
      step(
        'Then a strong wind came up, and {hero} had to walk slowly.',
        'It was a long way, and twice {hero.they} had to rest.',
        'A cart rolled by, and {hero} was allowed to ride on it.',
      ),
    ],
    [
      step(
        'At last {hero.they} gave {!thing.the} to {!receiver}.',
        '{!receiver} opened the door, and {hero} gave {receiver.them} {!thing.the}.',
        'When {hero} arrived, {!receiver} was [in the garden|eating soup].',
      ),
      step(
        '"And the message?" "{!sender} will come on {!day} at {!hour}," said {hero}.',
        '"{!sender} will be here on {!day} at {!hour}," said {hero}, without a mistake.',
        '"What else did {!sender} say?" "{!day} at {!hour}," {hero} answered.',
      ),
      step(
        '"You are better than any letter," said {receiver}.',
        '{receiver} gave {hero.them} [a glass of milk|a slice of bread with jam|a shiny coin].',
        '"Well remembered!" said {receiver}.',
      ),
    ],
  ],
};

const darkNight: Plot = {
  name: 'dark night',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      friend: pick.friendOf(hero),
      elder: pick.one(relatives),
      song: pick.one(secretWords),
      toy: pick.thing(),
      hide: pick.hollow(),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        'When {hero} was small, {hero.their} {elder} [often sang|used to sing] a song about {song}.',
        "{hero}'s {elder} knew a song about {song} that made [everybody|all children] brave.",
        '"When you are afraid, sing the song about {song}," {hero}\'s {elder} [always|once] said.',
      ),
      maybe('It was a slow song, and it had no end.', 'It was short and a little funny.'),
      step(
        'Now {hero} was [older|almost grown up] and slept at the house of {friend}.',
        '{when}, {hero} and {friend} put up a tent behind the house.',
        'One night {hero} and {friend} were alone at home.',
      ),
    ],
    [
      step(
        'At night the wind howled, and something knocked {hide.where}.',
        'In the middle of the night there was a noise. It came from somewhere {hide.where}.',
        'The lights went out, and something moved {hide.where}.',
      ),
      step(
        '"I am afraid," whispered {friend} and held {friend.their} {toy} tightly.',
        '{friend} pulled the blanket over {friend.their} head. {Friend.they} had only {friend.their} {toy} to hold.',
        '{friend} sat up. "Did you hear that?" {friend.they} asked and reached for {friend.their} {toy}.',
      ),
      step(
        '{hero} was afraid too. Then {hero.they} remembered what {hero.their} {!elder} used to sing.',
        '{hero} thought of {hero.their} {!elder} and took a deep breath.',
      ),
    ],
    [
      step(
        'Very softly {hero} began to sing about {!song}.',
        'In the dark {hero.they} sang the song about {!song}.',
        '"Listen," said {hero}, "this song is about {!song}."',
      ),
      step(
        'After a while {friend} hummed along and let go of the {!toy.short}.',
        'Soon {friend} fell asleep with the {!toy.short} in {friend.their} arms.',
        '{friend} became calm and put down {!toy.the}.',
      ),
      step(
        'In the morning they looked {!hide.where}. It had only been [the cat|a loose board|a hedgehog].',
        'When it was light, they found a [mouse|branch] {!hide.where} and laughed.',
        '"Look {!hide.where}," {hero} said in the morning. There sat a [little owl|fat toad].',
      ),
    ],
  ],
};

const newPet: Plot = {
  name: 'new pet',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      friend: pick.friendOf(hero),
      pet: pick.noun(pets),
      name: pick.one(petNames),
      other: pick.one(petNames),
      mark: pick.one(['white paw', 'black ear', 'bent tail', 'grey nose', 'brown spot', 'torn ear']),
      place: pick.outdoors(),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} got {pet.a} with a {mark}.',
        '{when}, {hero} was allowed to choose {pet.a}. {Hero.they} took the one with a {mark}.',
        'Somebody had left {pet.a} {place.where}. It had a {mark}, and {hero} could keep it.',
      ),
      step(
        '"We could call it {other}," said {friend}. But {hero} called it {name}.',
        '"I will call you {name}," {hero} said. {Friend} would have liked {other} better.',
        '{friend} said that {other} was a good name, but {hero} wanted {name}, and so it was.',
      ),
      maybe('The {pet} [looked up|listened] as if it understood.', 'From then on the two were always together.'),
    ],
    [
      step(
        'One day the gate stood open, and the {!pet} was gone.',
        'Then came the day of the big fair, and in the crowd the {!pet} got lost.',
        'One evening there was thunder, and the {!pet} ran away in fear.',
      ),
      step(
        '{hero} and {friend} looked for it {place.where}. There were many animals.',
        'They searched the whole village and came {place.to}, where other animals ran about.',
        '"I saw some animals {place.where}," said {friend}, and they ran there.',
      ),
      step(
        '"Which one is yours?" a man asked. "The one with the {!mark}," said {hero}.',
        '"Ours has a {!mark}," {friend} told everyone.',
        '"Look for the {!mark}," said {hero}.',
      ),
    ],
    [
      step(
        'Then {hero} called as loud as {hero.they} could, "{!name}! {!name}!"',
        '"{!name}!" {hero} called, and once more, "{!name}!"',
        '{hero} put {hero.their} hands to {hero.their} mouth. "{!name}, come here!" {hero.they} called.',
      ),
      step(
        'One {!pet} lifted its head and came running.',
        'And out of the crowd came a small {!pet} with a {!mark}.',
        'There was a happy sound, and the {!pet} jumped right into {hero.their} arms.',
      ),
      step(
        '"It knows its name," said {friend}. "{!name} was a good choice after all."',
        '"Good {!name}," said {hero} and did not let go.',
        'That evening {!name} got [a double supper|a warm bath|the best place by the fire].',
      ),
    ],
  ],
};

const seed: Plot = {
  name: 'seed',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      friend: pick.friendOf(hero),
      giver: pick.neighbour(),
      flower: pick.one(flowers),
      otherFlower: pick.one(flowers),
      pot: pick.coloured('pot'),
      otherPot: pick.coloured('pot'),
      day: pick.one(weekdays),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {giver} gave {hero} a {flower} seed and {friend} a {otherFlower} seed.',
        '{giver} had two seeds left, a {flower} for {hero} and a {otherFlower} for {friend}.',
        '{when}, {hero} got a {flower} seed from {giver}, and {friend} got a {otherFlower} seed.',
      ),
      step(
        '{hero} planted it in {pot.the}, and {friend} took {otherPot.the}.',
        '{hero} put it into {pot.a}. {Friend} chose {otherPot.a}.',
        'They filled two pots with earth: {pot.a} for {hero} and {otherPot.a} for {friend}.',
      ),
      step(
        '"Give them water every {day}," said {giver}.',
        'Every {day} they had to give them water.',
        '"Once a week is enough," {giver} said. "Let us say every {day}."',
      ),
    ],
    [
      step(
        'For a long time nothing [happened|could be seen]. "Nothing will ever grow," said {friend}.',
        'Two weeks passed, and there was only [brown|dark] earth.',
        '{friend} [wanted to give up|became impatient], but {hero} waited.',
      ),
      step(
        'Every {!day} {hero} brought the can, as {!giver} had said.',
        'Still, on {!day}, they never forgot the water.',
        '"Today is {!day}," {hero} would say, and then they gave them water.',
      ),
      step(
        'Then, one morning, there was something green in {!pot.the}.',
        'One day the earth moved in {!pot.the}, and a tiny leaf came out.',
        'The first leaf came up in {!pot.the}.',
      ),
    ],
    [
      step(
        'By summer there was a {!flower} in {!pot.the} and a {!otherFlower} in {!otherPot.the}.',
        'In {!pot.the} grew a {!flower}, and in {!otherPot.the} a {!otherFlower}.',
        "Soon {hero}'s {!flower} was as high as the window, and {friend}'s {!otherFlower} was almost as high.",
      ),
      step(
        'They showed them to {!giver}. "You can wait," {giver.they} said. "That is a rare gift."',
        'They invited {!giver} to look. {Giver.they} was [proud|very pleased].',
        '{!giver} gave each of them another seed for next year.',
      ),
    ],
  ],
};

const hatsInTheWind: Plot = {
  name: 'hats in the wind',
  cast(pick) {
    const hero = pick.child('she');
    const friend = pick.child('he');
    const third = pick.child();
    const cloth = pick.one(clothes).text;
    const owned = [pick.coloured(cloth), pick.coloured(cloth), pick.coloured(cloth)] as const;
    const lost = 1 + pick.random.integer(2);
    return {
      hero,
      friend,
      third,
      cloth: { text: cloth },
      ofHero: owned[0],
      ofFriend: owned[1],
      ofThird: owned[2],
      lost: owned[lost]!,
      owner: [hero, friend, third][lost]!,
      place: pick.outdoors(),
      spot: pick.outdoorSpot(),
    };
  },
  sideFacts: false,
  paragraphs: [
    [
      step(
        '{when}, {hero}, {friend} and {third} went {place.to}.',
        '{when}, three children played {place.where}. Their names were {hero}, {friend} and {third}.',
      ),
      step(
        '{hero} had {ofHero.a}, {friend} {ofFriend.a} and {third} {ofThird.a}.',
        '{hero} wore {ofHero.a}, {friend} wore {ofFriend.a}, and {third} wore {ofThird.a}.',
        '{hero} came in {ofHero.a}, {friend} in {ofFriend.a}, and {third} in {ofThird.a}.',
      ),
      step(
        'It was warm, so they [took them off|hung them on a tree] and [ran about|played hide and seek].',
        'Soon they were hot and laid them on the grass.',
      ),
    ],
    [
      step(
        'But suddenly a [storm|strong wind] came up and [blew|carried] one of them away.',
        'When they came back, one of the three was missing.',
      ),
      step(
        '{hero} was the first to see it, far away {spot.where}.',
        'They looked for it for an hour. {Hero} found it {spot.where}.',
        'It lay {spot.where}, and {hero} picked it up.',
      ),
      step(
        '"It is {!lost.adjective}," {hero.they} said. "So it belongs to {!owner}."',
        'It was {!lost.a}. "This one is for {!owner}," {hero.they} said.',
        '{hero.they} held up {!lost.a}. "Here you are, {!owner}!" {hero.they} called.',
      ),
    ],
    [
      step(
        '{owner} was glad and [put it on again|held on to it all the way home].',
        '"Thank you," said {owner}. "Without it I could not go home."',
        '"{!spot.where}?" asked {owner}. "What a place to fly to!"',
      ),
      step(
        'Then the [rain|wind] began again, and the three friends ran home.',
        'On the way home they sang so loud that the birds flew up.',
        'They never forgot that day {!place.where}.',
      ),
      maybe(
        'From far away one could see {!ofHero.a}, {!ofFriend.a} and {!ofThird.a}.',
        'After them flew a single leaf.',
      ),
    ],
  ],
};

const paintedDoor: Plot = {
  name: 'painted door',
  cast(pick) {
    const hero = pick.child();
    const [old, wish] = [pick.one(colours), pick.one(colours)];
    return {
      hero,
      friend: pick.friendOf(hero),
      elder: pick.one(relatives),
      old,
      wish,
      what: pick.one(['door', 'fence', 'gate', 'bench', 'boat', 'cart', 'doghouse', 'garden chair']),
      day: pick.one(weekdays),
      reward: pick.one([
        'a pancake',
        'a ride in the cart',
        'a story',
        'an ice cream',
        'a new book',
        'a swim in the lake',
      ]),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        'The {what} in front of the house had always been {old}, but the paint was [old|coming off].',
        '"I cannot look at that {old} {what} any longer," said {hero}\'s {elder} {when}.',
      ),
      step(
        'It was to be {wish} by {day}, and {hero} had to do it for {hero.their} {elder}.',
        '"Paint it {wish}, please," {hero.their} {elder} told {hero}, "and be ready by {day}."',
      ),
      step(
        '"And then you will get {reward}," {hero}\'s {elder} said.',
        '"For that I promise you {reward}," said {hero.their} {elder}.',
        '{hero} would get {reward} for it.',
      ),
    ],
    [
      step(
        '{hero} asked {friend} to help. "Which colour?" asked {friend}. "{!wish}," said {hero}.',
        '{friend} brought many pots of paint. {Hero} took the {!wish} one.',
        'In the shop {friend} asked for {!wish} paint.',
      ),
      step(
        'They painted and painted. Soon {friend} had paint [on {friend.their} nose|in {friend.their} hair].',
        'A fly sat down on the wet paint, and a dog leaned against it.',
        'It was harder than it looked. The paint ran down their arms.',
      ),
      maybe('Under the {!old} paint there was bare wood.', 'Bit by bit the {!old} paint [disappeared|was covered].'),
    ],
    [
      step(
        'On {!day} everything was ready, and the {!what} was {!wish} from top to bottom.',
        'On {!day} the {!what} shone in bright {!wish}.',
        'When {!day} came, the {!what} stood in the sun, and it was {!wish}.',
      ),
      step(
        '"Now you will get {!reward}," said {hero}\'s {!elder}, "both of you."',
        '{hero.their} {!elder} kept the promise: there was {!reward} for each of them.',
        '"I did not forget," said {hero.their} {!elder}. And so they got {!reward}.',
      ),
    ],
  ],
};

export const promisingPlots: readonly Plot[] = [password, message, darkNight, newPet, seed, hatsInTheWind, paintedDoor];
