/**
 * Plots in which something changes hands: who gave what to whom, what was promised, bought, borrowed or broken.
 */
import { fruits, groceries, prizes, relatives, tools } from './lexicon.ts';
import { maybe, type Plot, step } from './plot.ts';

const gift: Plot = {
  name: 'gift',
  cast(pick) {
    const hero = pick.child();
    return { hero, friend: pick.friendOf(hero), giver: pick.neighbour(), thing: pick.thing(), place: pick.place() };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} helped {giver} [to carry wood|to sweep the floor|to pick beans|with the heavy work].',
        '{when}, {giver} called {hero} over.',
        '{hero} [often visited|liked to visit] {giver}, who told [funny|long] stories.',
      ),
      step(
        '"You are a good child," {giver.they} said and gave {hero.them} {thing.a}.',
        '"I have something for you," said {giver} and put {thing.a} into {hero.their} hand.',
        'At the end of the day {giver} gave {hero.them} {thing.a}.',
      ),
      maybe(
        '{hero} had never had anything so [beautiful|fine].',
        '"I will never lose it," {hero} promised.',
        '{hero} was so glad that {hero.they} forgot to say thank you.',
      ),
    ],
    [
      step(
        'On the way home {hero} met {friend} {place.where}. {Friend.they} was [crying|very sad|sitting on a stone].',
        '{place.where}, {friend} sat alone and looked at the ground.',
        'Then {hero} saw {friend} {place.where}, with [a sad face|tears in {friend.their} eyes].',
      ),
      step(
        '"My best toy is broken," {friend.they} said.',
        '"Nobody came to my birthday," said {friend}.',
        '"We are moving to another town," {friend.they} said, "and I have to leave everything here."',
      ),
      step(
        '{hero} thought for a moment. Then {hero.they} held out {!thing.the}. "It is yours now," {hero.they} said.',
        '{hero} did not wait long. "Please take my {!thing}," {hero.they} said.',
        '"Look, this is for you," said {hero} and gave {friend.them} {!thing.the}.',
      ),
      step(
        '{friend} could not believe it. "Who gave it to you?" {friend.they} asked.',
        '"But where did you get it?" asked {friend}.',
        '{friend} dried {friend.their} eyes. "Is it from your mother?" {friend.they} asked.',
      ),
      step('"{!giver} gave it to me," said {hero}.', '"I got it from {!giver}," {hero} [said|answered].'),
    ],
    [
      step(
        'The next day {friend} went to {!giver} and [told {giver.them} everything|thanked {giver.them} too].',
        '{friend} kept the {!thing.short} all {friend.their} life.',
        'They went home [arm in arm|side by side], and {friend} held the {!thing.short} tightly.',
      ),
      step(
        'And {hero}? {Hero.they} had given something away and felt [richer|happier] than before.',
        '"A gift that is given twice is worth twice as much," {giver} said later.',
        'Since that day they have been the best of friends.',
      ),
    ],
  ],
};

const swap: Plot = {
  name: 'swap',
  cast(pick) {
    const hero = pick.child();
    return { hero, friend: pick.friendOf(hero), mine: pick.thing(), yours: pick.thing(), place: pick.place() };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{hero} had {mine.a}, and {friend} had {yours.a}.',
        '{when}, {hero} brought {mine.a} to school, and {friend} brought {yours.a}.',
        '{when}, {hero} showed {friend} {mine.a}. {Friend} had {yours.a} in {friend.their} pocket.',
      ),
      step(
        '"Shall we swap?" asked {friend}. {Hero} [nodded|thought about it and said yes].',
        '"I will give you mine for yours," said {hero}, and they [shook hands|swapped].',
        'Each of them liked the other thing better, so they swapped.',
      ),
      step(
        'So {hero} went home with {!yours.the}, and {friend} with {!mine.the}.',
        'Now {hero} had {!yours.the}, and {friend} had {!mine.the}.',
      ),
    ],
    [
      step(
        'But at night {hero} [lay awake|could not sleep]. {Hero.they} missed {hero.their} own {!mine.short}.',
        'The next morning {hero} was sorry. {Hero.they} missed {!mine.the}.',
        'After two days {hero} was tired of the {!yours.short} and wanted {hero.their} {!mine.short} back.',
      ),
      maybe(
        '"A swap is a swap," said {hero.their} mother. "But you can always ask."',
        '"Will {friend} be angry?" {hero.they} [wondered|asked].',
        'What could {hero.they} do?',
      ),
      step(
        '{hero} went to look for {friend} and found {friend.them} {place.where}.',
        'They met {place.where}.',
        '{place.where}, {friend} was already waiting.',
      ),
    ],
    [
      step(
        '"I miss my {!yours.short}," said {friend} [before {hero} could speak|in a small voice].',
        '"Can I have my {!yours.short} back?" asked {friend}. {Hero} laughed out loud.',
        '{friend} held out {!mine.the}. "It is nice," {friend.they} said, "but it is not mine."',
      ),
      step(
        'So they swapped again, and both were [happy|content].',
        '"Then let us swap back," said {hero}.',
        'They looked at each other and laughed, and each took back what was theirs.',
      ),
      maybe('Some things are best where they belong.', 'That night {hero} slept very well.'),
    ],
  ],
};

const borrowedTool: Plot = {
  name: 'borrowed tool',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      friend: pick.friendOf(hero),
      lender: pick.neighbour(),
      other: pick.neighbour(),
      tool: pick.one(tools),
      otherTool: pick.one(tools),
      build: pick.one([
        'tree house',
        'little bridge',
        'rabbit hutch',
        'raft',
        'wooden hut',
        'birdhouse',
        'small stage',
      ]),
      place: pick.outdoors(),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} and {friend} wanted to build a {build} {place.where}.',
        '"Let us build a {build} {place.where}," {hero} said to {friend} {when}.',
      ),
      step(
        '{hero} borrowed a {tool} from {lender}, and {friend} borrowed a {otherTool} from {other}.',
        '{lender} lent {hero} a {tool}, and {other} lent {friend} a {otherTool}.',
        'They had no tools, so {lender} gave them a {tool}, and {other} gave them a {otherTool}.',
      ),
      step(
        '"Bring it back before dark," said {lender}.',
        '"Take good care of it," {lender} said.',
        '"Do not forget to bring it back," said {lender}.',
      ),
    ],
    [
      step(
        'They worked all day. {Friend} [held the boards|measured], and {hero} [hammered|pulled].',
        'It was hard work. First everything fell down, and they had to start again.',
        'They worked until their hands hurt, but they sang all the time.',
      ),
      step(
        'In the afternoon the {!build} was finished.',
        'At last the {!build} stood firm.',
        '"Our {!build} is [ready|done]!" cried {friend}.',
      ),
      maybe(
        'It was a little crooked, but it was theirs.',
        'They sat down and looked at it for a long time.',
        'A bird came and sat on top of it.',
      ),
    ],
    [
      step(
        'Then it grew dark. "Whose {!tool} is this?" asked {friend}.',
        '"The tools!" said {hero}. "We must take them back."',
        'Before they went home, they [cleaned|gathered] the tools.',
      ),
      step(
        '{hero} took the {!tool} to {!lender}, and {friend} took the {!otherTool} to {!other}.',
        'The {!tool} went back to {!lender}, and the {!otherTool} to {!other}.',
        '{!lender} got the {!tool} back, and {!other} the {!otherTool}.',
      ),
      step(
        '"You are back in time," said {lender}. "Next time you may borrow it again."',
        '{lender} was pleased and asked to see the {!build}.',
        '"I knew that I could trust you," {lender} said to {hero}.',
      ),
    ],
  ],
};

const race: Plot = {
  name: 'race',
  cast(pick) {
    const hero = pick.child();
    const [from, to] = [pick.outdoors(), pick.outdoors()];
    return { hero, rival: pick.friendOf(hero), judge: pick.neighbour(), prize: pick.one(prizes), from, to };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        'Every year there was a race in the village, from {from.the} to {to.the}.',
        '{when}, all the children came together for a race from {from.the} to {to.the}.',
      ),
      step(
        '"The winner gets {prize}," said {judge}.',
        '{judge} held up a sign: the winner would get {prize}.',
        'This time {judge} promised {prize} to the winner.',
      ),
      step(
        '{hero} was small but fast. {Rival} had the longest legs of all.',
        '{hero} had practised for weeks, and so had {rival}.',
        'Nobody thought that {hero} could win against {rival}.',
      ),
    ],
    [
      step(
        'They [started|ran off] when the bell rang. Soon {rival} was far ahead.',
        'When {judge} [whistled|clapped], they started {!from.where}.',
        '"Ready, steady, go!" called {judge}, and {!from.the} was soon far behind them.',
      ),
      step(
        'Halfway there {rival} fell over a root and [hurt {rival.their} knee|cried out].',
        'Then {rival} slipped in the mud and could not get up.',
      ),
      step(
        '{hero} could have run on, but {hero.they} stopped and [helped {rival.them} up|held out a hand].',
        '{hero} thought of {!prize}. Then {hero.they} turned round and helped {rival}.',
        '"Lean on me," said {hero}, and they went on together.',
      ),
    ],
    [
      step(
        'They reached {!to.the} last of all, arm in arm.',
        'Slowly they came to {!to.the}, and everybody [clapped|cheered].',
        'When they arrived at {!to.the}, the others were already there.',
      ),
      step(
        '"A friend like that has won," said {judge} and gave {hero} {!prize}.',
        'But {judge} gave {!prize} to {hero}. "You have won something better than a race," {judge.they} said.',
        '"And who gets {!prize}?" asked {rival}. "{Hero} does," said {judge}.',
      ),
      step(
        '{hero} shared it with {rival}.',
        '"We will share it," {hero} said to {rival}.',
        '{rival} [smiled|laughed] and forgot {rival.their} knee.',
      ),
    ],
  ],
};

const favouriteFruit: Plot = {
  name: 'favourite fruit',
  cast(pick) {
    const hero = pick.child();
    const best = pick.one(fruits);
    return {
      hero,
      elder: pick.one(relatives),
      best,
      wrong: pick.one(fruits),
      tree: pick.outdoors(),
      day: pick.one(['birthday', 'name day']),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        "{hero}'s {elder} [loved|liked] {best} more than anything else.",
        '"When I was a child," {hero}\'s {elder} once said, "I could eat {best} all day long."',
        "Of all the fruit in the world, {hero}'s {elder} liked {best} best.",
      ),
      step(
        'But for {wrong} {hero.their} {elder} did not care at all.',
        '"Only {wrong} I cannot stand," {hero.their} {elder} always added.',
        '{hero} {hero.themself} liked {wrong} better.',
      ),
      step(
        'Now it was almost {hero.their} {elder}\'s {day}. "I will bake a cake," {hero} [said|decided].',
        'For this {day} {hero} wanted to bake a cake, all alone.',
      ),
    ],
    [
      step(
        '{hero} went to the shop. "We have very fine {!wrong} today," said the woman.',
        '{when}, {hero} took a basket and went to the shop.',
        'In the shop there were [piles|baskets] of {!wrong}, and they were cheap.',
      ),
      step(
        '"No, thank you," {hero} said. "It has to be {!best}."',
        'But {hero} did not want {!wrong}. {Hero.they} asked for {!best}.',
        '"I need {!best}," said {hero}, "and nothing else."',
      ),
      step(
        'There were none left, so {hero} went {tree.to}, where some grew [wild|on an old wall].',
        '"You can find them {tree.where}," said a boy, and {hero} ran there at once.',
        '{tree.where}, {hero.they} found enough of them.',
      ),
      maybe(
        'It took all afternoon, and the kitchen was white with flour.',
        'The first cake was burnt, but the second one was golden.',
        '{hero} mixed butter, eggs and sugar and did not forget the salt.',
      ),
    ],
    [
      step(
        'In the evening a cake full of {!best} stood on the table.',
        'When {hero.their} {!elder} came in, there was a cake with candles, full of {!best}.',
        '"[Surprise|Happy {day}]!" called {hero} and carried in a cake full of {!best}.',
      ),
      step(
        '"You remembered!" said {hero.their} {!elder} and ate [three|four] pieces.',
        '{hero.their} {!elder} [laughed with joy|could not say a word] and took a big bite.',
        '"{!best}! How did you know?" asked {hero.their} {!elder}.',
      ),
    ],
  ],
};

const brokenThing: Plot = {
  name: 'broken thing',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      owner: pick.one(relatives),
      dish: pick.coloured(pick.one(['vase', 'bowl', 'plate', 'jug', 'teacup', 'lamp']).text),
      spot: pick.indoorSpot(),
      pet: pick.noun(['dog', 'cat', 'parrot', 'goat']),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} played ball in the house and [hit|broke] {dish.the}. It [fell to pieces|broke in two].',
        '{when}, {hero} ran through the kitchen, and {dish.the} fell down and broke.',
      ),
      step(
        "It was {hero}'s {owner} who had [made|bought] it long ago.",
        'It belonged to {hero.their} {owner}.',
        '{hero.their} {owner} loved it very much.',
      ),
      step(
        '{hero} was afraid. Quickly {hero.they} hid the pieces {spot.where}.',
        'Nobody had seen it, so {hero.they} put the pieces {spot.where}.',
      ),
    ],
    [
      step(
        'In the evening {hero.their} {!owner} asked, "Where is {!dish.the}?"',
        '"Has anybody seen {!dish.the}?" asked {hero.their} {!owner} at supper.',
        'Soon {hero.their} {!owner} noticed that {!dish.the} was gone.',
      ),
      step(
        '"Perhaps it was the {pet}," {hero} said very softly.',
        '{hero} looked at the {pet} and said nothing.',
        '"The {pet} was in here," said {hero}.',
      ),
      step(
        'So the poor {!pet} had to [stay outside|sleep in the cold] that night.',
        'Then the {!pet} was sent out into the rain.',
        'The {!pet} got nothing to eat and looked at {hero} with big eyes.',
      ),
    ],
    [
      step(
        '{hero} could not bear it. "It was not the {!pet}," {hero.they} said. "It was me."',
        'In bed {hero} thought of the {!pet}. {Hero.they} got up and told the truth.',
        'A lie is heavy. Before long {hero} [cried and told everything|told the whole story].',
      ),
      step(
        'Together they took the pieces, which were still {!spot.where}, and glued them.',
        '"The pieces are {!spot.where}," {hero} [said|whispered]. They glued them together.',
        '{hero} went to fetch what lay {!spot.where}, and they mended it.',
      ),
      step(
        '"[Things can be mended|A broken thing is only a thing]," said {hero.their} {!owner}, "and I am glad that you told me."',
        '{hero.their} {!owner} was not angry any more. "Thank you for being honest," {hero.their} {owner} said.',
        'And the {!pet} got a big piece of [sausage|cheese] and slept on {hero.their} bed.',
      ),
    ],
  ],
};

const shopping: Plot = {
  name: 'shopping',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      friend: pick.friendOf(hero),
      list: pick.threeOf(groceries),
      sight: pick.noun([
        'puppet show',
        'man with a monkey',
        'juggler on stilts',
        'brass band',
        'big parade',
        'dancing bear',
      ]),
      elder: pick.one(relatives),
      place: pick.outdoors(),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '"Please go to the shop," {hero}\'s {elder} said {when}. "We need {list}."',
        "{when}, {hero}'s {elder} sent {hero.them} to buy {list}.",
        '{when}, {hero} had to buy {list} for {hero.their} {elder}.',
      ),
      step(
        '"I do not need a list," said {hero}. "I will keep it in my head."',
        '{hero} said the words again and again, so as not to forget them.',
        '{hero} took the basket and [ran off|sang the three words on the way].',
      ),
    ],
    [
      step(
        'But {place.where} there was {sight.a}.',
        '{place.where}, {hero.they} met {friend}, and together they saw {sight.a}.',
        'On the way {hero.they} stopped {place.where} because of {sight.a}.',
      ),
      step(
        '{hero} [clapped and laughed|watched with open mouth] and forgot the time.',
        'It was so [funny|loud] that {hero} forgot everything else.',
      ),
      step(
        'In the shop {hero.they} stood and thought. "{!list.first}," {hero.they} said, "and {!list.second}. And what else?"',
        '"What would you like?" asked the man in the shop. "{!list.first} and {!list.second}," said {hero}, "and one more thing."',
      ),
      maybe(
        'The man waited and [tapped his fingers|smiled].',
        'There was a long line of people behind {hero.them}.',
        '{hero} counted on {hero.their} fingers.',
      ),
      step(
        'Then it came back. "{!list.third}!" [cried|called] {hero}.',
        '"{!list.third}, of course," {hero.they} said at last.',
        'At the door {hero.they} remembered the {!list.third}.',
      ),
    ],
    [
      step(
        'At home {hero.their} {elder} looked into the basket: {!list.first}, {!list.second} and {!list.third}. Nothing was missing.',
        '"{!list.first}, {!list.second} and {!list.third}," {hero.their} {elder} counted. "Well done!"',
        '{hero} put {!list.first}, {!list.second} and {!list.third} on the table [with pride|and bowed].',
      ),
      step(
        '"And what took you so long?" "There was {!sight.a} {!place.where}," said {hero}.',
        'At supper {hero} [told them about|could talk only of] {!sight.the} {!place.where}.',
      ),
    ],
  ],
};

export const givingPlots: readonly Plot[] = [gift, swap, borrowedTool, race, favouriteFruit, brokenThing, shopping];
