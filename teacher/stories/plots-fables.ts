/**
 * Plots among animals that talk. Here a lesson learnt from one animal helps with another.
 */
import { foods, fruits, prizes, secretWords } from './lexicon.ts';
import { maybe, type Plot, step } from './plot.ts';

const adviceOfTheElder: Plot = {
  name: 'advice',
  cast(pick) {
    return {
      hero: pick.creature(),
      elder: pick.creature(),
      friend: pick.creature(),
      food: pick.one(fruits),
      cure: pick.one(['mint leaves', 'warm milk', 'pine honey', 'nettle soup', 'cool mud', 'dry moss', 'blue berries']),
      source: pick.outdoors(),
      ill: pick.one(['cold', 'sore paw', 'bad tooth', 'cough', 'fever', 'stomach ache']),
    };
  },
  sideFacts: false,
  paragraphs: [
    [
      step(
        '{when}, {hero} met {elder}, who was very old and very wise.',
        '{hero} lived next to {elder}, the oldest animal in the wood.',
        'When {hero} was young, {elder} [taught|told] {hero.them} many things.',
      ),
      step(
        '"Against a {ill}, nothing helps but {cure}," said {elder}.',
        '"Remember this," said {elder}. "If somebody has a {ill}, bring {cure}."',
      ),
      step(
        '"You will find it {source.where}," {elder.they} said.',
        '"It is to be had {source.where}, and nowhere else," {elder.they} added.',
      ),
      maybe('{hero} [listened|yawned] and thought no more of it.', '{hero} thanked {elder.them} with a bow.'),
    ],
    [
      step(
        'That winter {friend} fell ill. {Friend.they} had a {!ill}.',
        'A year later {friend} had a terrible {!ill}.',
        'One day {friend} did not come out. "I have a {!ill}," {friend.they} said.',
      ),
      step(
        'All the animals came. One brought {food}, another brought a blanket.',
        '"Eat some {food}," the others said, but it did not help.',
        'The others danced and made jokes, but {friend} only sighed.',
      ),
      step(
        'Then {hero} remembered the words of {!elder}.',
        '"Wait," said {hero}. "{!elder} told me what to do."',
        'What had {!elder} said? {Hero} thought and thought.',
      ),
    ],
    [
      step(
        '{hero.they} ran {!source.to} and came back with {!cure}.',
        'So {hero} went {!source.to}, although the snow was deep, and fetched {!cure}.',
        '"{!cure}!" {hero.they} cried, and off {hero.they} went {!source.to}.',
      ),
      step(
        'After two days the {!ill} was gone.',
        'Before the sun went down, {friend} felt better.',
        '{friend} slept a whole night, and the {!ill} was over.',
      ),
      step(
        '"Old words are good words," said {friend}.',
        '"How wise you are," {friend} said. "No," said {hero}, "that was {!elder}."',
        'And {hero} told it to {hero.their} children, and they told it to theirs.',
      ),
    ],
  ],
};

const sharedSupper: Plot = {
  name: 'shared supper',
  cast(pick) {
    const food = pick.threeOf(foods);
    return {
      hero: pick.creature(),
      second: pick.creature(),
      third: pick.creature(),
      food,
      dish: pick.one(['soup', 'stew', 'pie', 'pancake', 'pudding']),
      place: pick.outdoors(),
      secret: pick.one(secretWords),
    };
  },
  sideFacts: false,
  paragraphs: [
    [
      step(
        '{when}, {hero} wanted to cook a big {dish}, but {hero.they} had nothing except {food.first}.',
        '{hero} was hungry. In the whole house {hero.they} found only {food.first}. "With that I cannot make a {dish}," {hero.they} said.',
      ),
      step(
        '{second} had only {food.second}, and {third} had only {food.third}.',
        'Next door, {second} looked at {second.their} {food.second}, and across the stream {third} looked at {third.their} {food.third}.',
        '"I have nothing but {food.second}," said {second}. "And I have nothing but {food.third}," said {third}.',
      ),
      maybe('Each of them went to bed with an empty stomach.', 'So all three were hungry and cross.'),
    ],
    [
      step(
        'Then {hero} had an idea. "Come {place.to} this evening," {hero.they} said, "and bring what you have."',
        '"Let us meet {place.where}," {hero} told the others, "and put everything into one pot."',
      ),
      step(
        '{second} came with {!food.second}, and {third} came with {!food.third}.',
        '{!food.second} came from {!second}, and {!food.third} from {!third}.',
        'So {second} brought the {!food.second}, {third} brought the {!food.third}, and the {!food.first} came from {!hero}.',
      ),
      step(
        '{hero} made a fire [of dry branches|between three stones].',
        'They [stirred|cooked] and [tasted|laughed], and the smoke rose up to the moon.',
      ),
    ],
    [
      step(
        'It became the best {!dish} that they had ever eaten {!place.where}.',
        'Soon a fine {!dish} was ready, and it smelled wonderful {!place.where}.',
        'What a {!dish} that was! All three ate until they were full.',
      ),
      step(
        '"{!food.first} alone would be nothing," said {hero}, "but {!food.first}, {!food.second} and {!food.third} together are a feast."',
        '"Who would have thought it?" said {third}. "{!food.first}, {!food.second} and {!food.third}!"',
        '"Tomorrow again?" asked {second}, and the others nodded.',
      ),
    ],
  ],
};

const keptPromise: Plot = {
  name: 'kept promise',
  cast(pick) {
    return {
      hero: pick.creature(),
      strong: pick.creature(),
      trap: pick.one(['a net', 'a hole', 'a thorn bush', 'a hollow tree', 'an old sack', 'the mud']),
      promise: pick.one(prizes),
      place: pick.outdoors(),
      secret: pick.one(secretWords),
    };
  },
  sideFacts: false,
  paragraphs: [
    [
      step(
        '{when}, {hero} was caught in {trap} {place.where}.',
        '{hero} was not careful and got stuck in {trap} {place.where}.',
      ),
      step(
        '{strong} came by. "Help me," said {hero}, "and one day I will bring you {promise}."',
        '"Whoever helps me gets {promise}," called {hero}. {Strong} heard it.',
        '"If you help me, I promise you {promise}," {hero.they} said to {strong}.',
      ),
      step(
        '{strong} laughed, but {strong.they} helped. "Call {secret} if you need me again," {strong.they} said.',
        'With one pull {strong} set {hero.them} free. "If you are ever in trouble, call out {secret}," {strong.they} said.',
      ),
    ],
    [
      step(
        'The summer passed, and both of them forgot about it.',
        '{hero} went home and [told nobody|slept for two days].',
        'Months went by. The leaves fell from the trees.',
      ),
      step(
        'Then {hero} fell into the river. "{!secret}!" {hero.they} called. "{!secret}!"',
        'Then a hunter came. {Hero} ran and called out {!secret} with all {hero.their} might.',
        'Then a great storm came, and {hero} could only call, "{!Secret}!"',
      ),
      step(
        'And there was {!strong}, who took {hero.them} on {strong.their} back.',
        'From far away {!strong} heard it and came just in time.',
      ),
      maybe('"You remembered the word," {strong} said.', '"That was close," said {strong}.'),
    ],
    [
      step(
        'This time {hero} kept the promise. The next day {hero.they} brought {strong.them} {!promise}.',
        '"I still owe you {!promise}," said {hero}, and {hero.they} went and got it.',
        '"And what about {!promise}?" asked {strong}. "Here it is," {hero} said the next day.',
      ),
      step(
        'Since then nobody has seen one without the other.',
        '{strong} had never been given anything before and [was very quiet|wept a little].',
        'They sat {!place.where}, where everything had begun, and watched the stars.',
      ),
    ],
  ],
};

export const fablePlots: readonly Plot[] = [adviceOfTheElder, sharedSupper, keptPromise];
