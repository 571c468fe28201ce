/**
 * Plots in which something is hidden, lost or looked for: the place told early is the place needed late.
 */
import { listing } from './grammar.ts';
import { countedAnimals, numbers, pets } from './lexicon.ts';
import { maybe, type Plot, step } from './plot.ts';

const hiddenThing: Plot = {
  name: 'hidden thing',
  cast(pick) {
    const hero = pick.child();
    return { hero, friend: pick.friendOf(hero), thing: pick.thing(), spot: pick.spot() };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{hero} had {thing.a}, and {hero.they} [liked it more than all {hero.their} toys|took good care of it].',
        'For {hero.their} birthday {hero} [was given|got] {thing.a}.',
        '{when}, {hero} found {thing.a} [in the street|on the way home from school].',
        '{hero} owned only one [precious|special] thing, {thing.a}.',
      ),
      step(
        '{hero.they} wanted to keep it safe, so {hero.they} [put|hid] it {spot.where}.',
        'To keep it safe, {hero} put the {thing.short} {spot.where}.',
        '"I must hide it well," {hero.they} thought, and {hero.they} laid it {spot.where}.',
        'When nobody was looking, {hero} hid the {thing.short} {spot.where}.',
      ),
      maybe('"Nobody will look there," {hero.they} [said|whispered].', '{hero.they} told nobody about it.'),
    ],
    [
      step(
        'Then there was so much to do that {hero} [did not think of it|forgot about it] for [days|a whole week].',
        'After that it rained for days, and {hero} [read|drew|slept] a lot and thought of other things.',
        'The next day {hero} fell ill and stayed in bed until Sunday.',
      ),
      step(
        'On Sunday {friend} came to visit.',
        'One day {hero.their} friend {friend} knocked at the door.',
        'Soon {friend} came to play.',
      ),
      step(
        '"[May|Can] I see the {!thing.short}?" {friend.they} asked.',
        '"Where is your {!thing}?" asked {friend}.',
        '{friend} asked for {!thing.the}.',
      ),
      maybe(
        '{hero} looked in every corner, but it was not there.',
        '"I do not know where it is!" {hero} [cried|said], and {hero.their} face turned red.',
        'At first {hero} could not remember where it was.',
        '{hero} [scratched|shook] {hero.their} head and thought hard.',
      ),
    ],
    [
      step(
        '[Then|At last] {hero.they} remembered. {Hero.they} [ran|went] to look {!spot.where}, and there it was.',
        '"Come with me," {hero} said. They looked {!spot.where} and found {!thing.the}.',
        'Suddenly {hero} laughed. "It is {!spot.where}, of course!" [{hero.they} said|{hero.they} called].',
        '{hero} closed {hero.their} eyes and thought. The {!thing.short} was {!spot.where}!',
      ),
      step(
        '{friend} [clapped {friend.their} hands|laughed]. "That is a [clever|good] hiding place," {friend.they} said.',
        'They [played together|sat together] until it was time for {friend} to go home.',
        '"You are good at hiding things," {friend} said with a smile.',
        '{friend} looked at it for a long time and [thought it was beautiful|did not want to give it back].',
      ),
    ],
  ],
};

const lostOnTheWay: Plot = {
  name: 'lost on the way',
  cast(pick) {
    const [first, second, third] = [pick.outdoors(), pick.outdoors(), pick.outdoors()];
    const hero = pick.child();
    return { hero, helper: pick.friendOf(hero), thing: pick.thing(), first, second, third, spot: pick.outdoorSpot() };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} [took a long walk|went for a walk|went out] with {hero.their} {thing} in {hero.their} bag.',
        '{when}, {hero} put {hero.their} {thing} in {hero.their} bag and set out.',
      ),
      step(
        'First {hero.they} was {first.where}, and then {second.where}.',
        '{hero.they} [stopped|rested] {first.where}, and later {hero.they} played {second.where}.',
      ),
      step(
        'There {hero} [took out|played with] {thing.the} and left it {spot.where}.',
        'There {hero.they} [met some children and|saw a rainbow and|heard music and] laid {thing.the} down {spot.where}.',
      ),
      step('In the evening {hero.they} came home {third.past}.', 'It was late when {hero.they} came home.'),
    ],
    [
      step(
        'But when {hero.they} opened the bag, the {!thing.short} was [gone|not there].',
        'At home {hero.they} opened the bag. It was empty!',
        'At supper {hero} noticed that the {!thing.short} was missing.',
      ),
      step(
        '"Where did you see it last?" asked {hero.their} {helper.sibling} {helper}.',
        '{helper}, who lived next door, wanted to help. "Where have you been today?" {helper.they} asked.',
        '{hero} began to cry, and {helper} [took|held] {hero.their} hand.',
      ),
      maybe(
        '{hero} thought about the whole day, step by step.',
        '"Let us go back together," said {helper}.',
        'They took a lamp and went back [the same way|together].',
      ),
    ],
    [
      step(
        'There was nothing {!first.where}. But {!second.where}, they looked {!spot.where}.',
        '"We need not look {!first.where}," {hero} said. "I left it {!second.where}."',
        '{hero} remembered playing {!second.where}. They [hurried|ran] there and looked {!spot.where}.',
      ),
      step(
        'And there lay {!thing.the}, just as {hero} had left it.',
        'The {!thing.short} was still there, [only a little wet|cold but not broken].',
        'Something was lying there in the [dark|grass]. It was {!thing.the}!',
      ),
      maybe(
        '"From now on I will be careful," {hero} said.',
        '{hero} put it deep into {hero.their} bag and held the bag with both hands.',
        '{hero} thanked {helper} three times.',
      ),
    ],
  ],
};

const treasureMap: Plot = {
  name: 'treasure map',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      friend: pick.friendOf(hero),
      place: pick.outdoors(),
      start: pick.outdoorSpot(),
      steps: pick.one(numbers),
      turn: pick.one(['left', 'right']),
      treasure: pick.thing(),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} and {friend} found an old map [in a book|in a bottle|under the stairs].',
        '{hero} and {friend} were [bored|reading] when a map fell out of an old book.',
        '"Look, a map!" said {hero} to {friend}.',
      ),
      step(
        'It said: "Go {place.to}. Start at {start.the}, turn {turn} and take {steps} steps."',
        '"From {start.the} {place.where}, turn {turn} and walk {steps} steps," {friend} read aloud.',
        'It showed {start.the} {place.where}. An arrow pointed {turn}, with {steps} steps beside it.',
      ),
    ],
    [
      step(
        '"It must be a treasure!" {hero} [whispered|cried].',
        '{friend} wanted to go at once.',
        'Both of them put on their boots.',
      ),
      maybe(
        'On the way the wind took the map and blew it [into the water|over the roofs|away].',
        'They walked fast, and the map got wet and could not be read any more.',
        'A goat came by and ate the map.',
      ),
      step(
        '"Do you still know the way?" asked {friend}. "Yes," said {hero}.',
        'But {hero} knew the words by heart.',
        '"I remember everything," said {hero}.',
      ),
    ],
    [
      step(
        'They went {!place.to} and looked for {!start.the}.',
        '{!place.where}, they found {!start.the} [at once|after a while].',
        'Soon they stood beside {!start.the}.',
      ),
      step(
        'Then they turned {!turn} and counted {!steps} steps.',
        'They turned {!turn}, took {!steps} steps, and [began to dig|stopped].',
        '"Now {!turn}," said {hero}, "and then {!steps} steps."',
      ),
      step(
        'Under [a flat stone|the leaves|some branches] lay {treasure.a}.',
        '{friend} dug with {friend.their} hands and pulled out {treasure.a}.',
        'In a hole in the ground they found {treasure.a}.',
      ),
      step(
        '"We will share the {!treasure.short}," said {hero}. "One week for you, one week for me."',
        'They carried {!treasure.the} home as if it were made of gold.',
        'It was not gold, but {friend} liked the {!treasure.short} better than gold.',
      ),
    ],
  ],
};

const lostAnimal: Plot = {
  name: 'lost animal',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      owner: pick.neighbour(),
      animal: pick.noun(pets),
      collar: pick.coloured('ribbon'),
      place: pick.place(),
      spot: pick.hollow(),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} [was playing|was walking] {place.where} when {hero.they} saw {animal.a}.',
        '{when}, {hero} heard a [strange|small] noise {place.where}. It was {animal.a}.',
        '{animal.a} sat all alone {place.where} when {hero} came by {when}.',
      ),
      step(
        'It had {collar.a} around its neck and [looked hungry|looked sad|was wet and cold].',
        'Around its neck was {collar.a}. [It looked lost|It was shaking].',
      ),
      step(
        '"You are lost, poor thing," {hero} said, and {hero.they} took the {!animal} home.',
        '{hero} gave it some [water|bread|milk] and carried it home.',
        'It [followed|came with] {hero} all the way home.',
      ),
    ],
    [
      step(
        'That night the little {!animal} slept {spot.where}.',
        'It was so tired that it lay down {spot.where} and slept.',
        'At home it hid {spot.where} and would not come out.',
      ),
      step(
        'The next morning {owner} came down the street. [{Owner.they} looked very sad|{Owner.they} was calling and calling].',
        'The next day {hero} met {owner}, who [had not slept all night|had tears in {owner.their} eyes].',
      ),
      step(
        '"I have lost my {!animal}," {owner.they} said.',
        '"Have you seen my {!animal}?" asked {owner}.',
        '"My {!animal} ran away yesterday," {owner.they} told {hero}.',
      ),
    ],
    [
      step(
        '"Does it have {!collar.a}?" asked {hero}. "Yes, yes!" [cried|said] {owner}.',
        '"What does it wear around its neck?" {hero} asked. "{!collar.a}," said {owner}.',
        '"It wears {!collar.a}," {owner.they} added.',
      ),
      step(
        '{hero} led {owner.them} into the house, and there it was, {!spot.where}.',
        '"Then look {!spot.where}," said {hero}.',
        '"It is asleep {!spot.where}," {hero} said and smiled.',
      ),
      step(
        '{owner} [hugged|kissed] the {!animal} and thanked {hero} again and again.',
        '"Thank you, {hero}," said {owner}. "You may visit us every day."',
        'How happy {owner} was! {Owner.they} gave {hero} [a warm bun|a big hug|an apple] for {hero.their} trouble.',
      ),
    ],
  ],
};

const missingOne: Plot = {
  name: 'missing one',
  cast(pick) {
    const hero = pick.child();
    return {
      hero,
      owner: pick.neighbour(),
      animals: pick.one(countedAnimals),
      number: pick.one(numbers),
      spot: pick.outdoorSpot(),
      place: pick.outdoors(),
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {owner} asked {hero} to [look after|watch] the {animals} {place.where}.',
        '{owner} had to go to town, so {hero} looked after the {animals} {place.where}.',
      ),
      step(
        '"There are {number} of them," {owner.they} said. "Please count them in the evening."',
        '{hero} counted them. There were {number} {!animals}.',
        '"I have {number} {!animals}," said {owner}, "and I love every one."',
      ),
      maybe('"I can do that," said {hero}.', '{owner} waved and was gone.'),
    ],
    [
      step(
        'All day {hero} [sat in the shade|sang to them|gave them water], and they ate and slept.',
        '{hero} watched them well, but in the afternoon {hero.they} fell asleep.',
        'They were never still, and {hero} had to go after them.',
      ),
      step(
        'In the evening {hero} counted again. One was missing!',
        'When the sun went down, {hero.they} counted them. One of the {!number} was not there.',
        'Then {hero} counted the {!animals} once more, and one was gone.',
      ),
      step(
        '{hero} looked [behind every tree|everywhere|up and down], but saw nothing.',
        '{hero.their} heart beat fast. {Hero.they} called and listened.',
        '"Where can it be?" {hero} [asked|thought].',
      ),
    ],
    [
      step(
        'Then {hero.they} heard a small sound. The lost one was {spot.where}, [fast asleep|and could not get out].',
        'At last {hero.they} found it {spot.where}.',
        'It was sitting {spot.where}, and it looked very pleased.',
      ),
      step(
        'When {owner} came back, all {!number} {!animals} were there.',
        '"Are there still {!number}?" asked {owner}. "All {!number}," said {hero}.',
        '{owner} came home and counted: all {!number} were there.',
      ),
      maybe(
        '"One of them likes to hide {!spot.where}," {hero} told {owner.them}.',
        '"And where was the lost one?" asked {owner}. "{!spot.where}," said {hero}.',
      ),
    ],
  ],
};

const threeBoxes: Plot = {
  name: 'three boxes',
  cast(pick) {
    const hero = pick.child();
    const [first, second, third] = [pick.coloured('box'), pick.coloured('box'), pick.coloured('box')];
    const things = [pick.thing(), pick.thing(), pick.thing()] as const;
    const wanted = pick.random.integer(3);
    return {
      hero,
      elder: pick.friendOf(hero),
      first,
      second,
      third,
      thingOfFirst: things[0],
      thingOfSecond: things[1],
      thingOfThird: things[2],
      wanted: things[wanted]!,
      box: [first, second, third][wanted]!,
      allThings: { text: listing(things.map((thing) => thing['the']!)) },
    };
  },
  sideFacts: true,
  paragraphs: [
    [
      step(
        '{when}, {hero} helped {hero.their} cousin {elder} to [tidy the attic|clean the house|move to a new room].',
        '{hero} and {hero.their} cousin {elder} packed their things for a journey.',
        '{when}, {hero} and {elder} played [shop|a memory game].',
      ),
      step(
        'They put {thingOfFirst.a} in {first.the}, {thingOfSecond.a} in {second.the} and {thingOfThird.a} in {third.the}.',
        '{thingOfFirst.a} went into {first.the}, {thingOfSecond.a} into {second.the}, and {thingOfThird.a} into {third.the}.',
        'In {first.the} they laid {thingOfFirst.a}, in {second.the} {thingOfSecond.a}, and in {third.the} {thingOfThird.a}.',
      ),
      maybe('Then they closed the [lids|boxes] and went to [eat|swim|sleep].', '"Do not mix them up," said {elder}.'),
    ],
    [
      step(
        'Later {elder} needed the {!wanted.short}. "Which box was it?" {elder.they} asked.',
        'After supper {elder} asked, "Where is {!wanted.the}?"',
        'The next day {elder} wanted to have {!wanted.the}.',
      ),
      maybe('All the boxes looked the same in the dim light.', '{elder} could not remember.'),
      step(
        '"It is in {!box.the}," said {hero} at once.',
        '{hero} did not have to think. {Hero.they} opened {!box.the}.',
        '{hero} pointed at {!box.the}.',
      ),
      step(
        '{elder} looked inside, and {hero} was right.',
        'And so it was. {elder} took out {!wanted.the}.',
        'Inside lay {!wanted.the}.',
      ),
    ],
    [
      step(
        '"[What a good memory you have|How do you remember it all]?" said {elder}.',
        '"You never forget anything," {elder} [said|laughed].',
        '{elder} was surprised. "Tomorrow you must find it for me again," {elder.they} joked.',
      ),
      step(
        '"I think of a picture," {hero} [said|explained], "and then I cannot forget it."',
        '"I just look carefully," said {hero}.',
        '{hero} only smiled.',
      ),
    ],
  ],
};

export const findingPlots: readonly Plot[] = [
  hiddenThing,
  lostOnTheWay,
  treasureMap,
  lostAnimal,
  missingOne,
  threeBoxes,
];
