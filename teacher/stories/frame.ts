/**
 * What stands around a plot: a side fact that introduces the hero and comes back in the last paragraph, and a last line.
 * Any of them goes with any plot that has a child as its hero.
 */

import { noun } from './grammar.ts';
import { clothes, colours, countedSights, numbers, petNames, pets, trades, weekdays } from './lexicon.ts';
import { type SideFact, type Step, step } from './plot.ts';

export const sideFacts: readonly SideFact[] = [
  {
    name: 'door',
    cast: (pick) => ({ door: pick.coloured('door') }),
    told: step(
      '{hero} lived in a [small|narrow|crooked] house with {door.a}.',
      '{hero} and {hero.their} family lived in the house with {door.the}.',
      'At the end of the street stood a house with {door.a}. {hero} lived there.',
    ),
    recalled: step(
      'In the evening {hero} opened {!door.the} and [told everything|was tired and happy|smelled the supper].',
      'It was late when {hero} came back to the house with {!door.the}.',
      'Before {hero} closed {!door.the}, {hero.they} looked up at the stars.',
    ),
  },
  {
    name: 'pet at home',
    cast: (pick) => ({ pet: pick.noun(pets), name: pick.one(petNames) }),
    told: step(
      '{hero} had {pet.a} called {name}.',
      '{hero} lived with {hero.their} mother and {pet.a} whose name was {name}.',
      'Wherever {hero} lived, {name} lived too. {name} was {hero.their} {pet}.',
    ),
    recalled: step(
      'At home {!name} was waiting at the gate.',
      'That night {!name} slept at the foot of the bed.',
      'In the evening {hero} told {!name} about it, [but|and] the {!pet} only [blinked|yawned].',
      '{hero} could hardly wait to see {!name} again.',
    ),
  },
  {
    name: 'favourite food',
    cast: (pick) => ({
      food: pick.one([
        'potato soup',
        'pea soup',
        'apple pie',
        'fried fish',
        'rice pudding',
        'tomato soup',
        'cheese noodles',
        'plum cake',
        'corn bread',
        'mushroom stew',
        'baked beans',
        'carrot salad',
      ]),
    }),
    told: step(
      '{hero} could eat {food} every day.',
      'There was nothing that {hero} liked more than {food}.',
      "{hero}'s favourite food was {food}.",
    ),
    recalled: step(
      'For supper {hero} had {!food} and asked for more.',
      'From the kitchen came the smell of {!food}. {Hero} began to run.',
      '"Come in," said {hero}\'s mother. "I have made {!food} for you."',
    ),
  },
  {
    name: 'little sibling',
    cast: (pick) => ({ sibling: pick.child() }),
    told: step(
      '{hero} had a little {sibling.sibling} called {sibling}.',
      '{hero} was the big {hero.sibling} of {sibling}, who was still very small.',
      '{hero} shared a room with little {sibling}.',
    ),
    recalled: step(
      'In the evening {hero} told little {!sibling} the whole story.',
      'At home little {!sibling} wanted to hear everything twice.',
      '"Next time I will come with you," said little {!sibling} when {hero} told about it.',
    ),
  },
  {
    name: 'age',
    cast: (pick) => ({ years: pick.one(numbers) }),
    told: step(
      '{hero} was {years} years old and [had curly hair|was never tired|could whistle very well].',
      '{hero} had just turned {years}.',
      'When {hero} was {years} years old, [this happened|something happened that {hero.they} never forgot].',
    ),
    recalled: step(
      '"And you are only {!years}!" said {hero}\'s grandmother when she heard of it.',
      'Not bad for a {hero.child} who was only {!years} years old.',
      'So {hero} learned something at the age of {!years} that many never learn.',
    ),
  },
  {
    name: 'wish',
    cast: (pick) => ({ wish: pick.thing() }),
    told: step(
      'More than anything {hero} wished for {wish.a}.',
      '{hero} had one wish: {wish.a}.',
      '"If only I had {wish.a}," {hero} [often said|used to say].',
    ),
    recalled: step(
      'That night {hero} dreamed of {!wish.a}.',
      'That day {hero} did not think of {!wish.a} [once|at all].',
      'When {hero} came home, a parcel lay on the bed. In it was {!wish.a}.',
    ),
  },
  {
    name: 'diary',
    cast: (pick) => ({ book: noun('book', pick.one(colours).text) }),
    told: step(
      'Every evening {hero} wrote a few lines into {book.a}.',
      '{hero} had {book.a}, and into it {hero.they} wrote what happened each day.',
    ),
    recalled: step(
      'In the evening {hero} opened {!book.the} and wrote [two whole pages|it all down|until {hero.their} hand hurt].',
      'All this can be read in {!book.the}, for {hero} wrote it down that night.',
    ),
  },
  {
    name: 'window',
    cast: (pick) => ({ view: pick.place() }),
    told: step(
      "From {hero}'s window one could see all the way {view.to}.",
      '{hero} could look out of the window all the way {view.to}.',
    ),
    recalled: step(
      'That night {hero} stood at the window for a long time and looked over {!view.to}.',
      'When {hero} went to bed, a light was still shining far away {!view.where}.',
    ),
  },
  {
    name: 'trade',
    cast: (pick) => ({ trade: pick.one(trades) }),
    told: step(
      'When {hero} grew up, {hero.they} wanted to be a {trade}.',
      '"One day I will be a {trade}," {hero} [used to say|often said].',
      "{hero}'s father was a {trade}.",
    ),
    recalled: step(
      'And later {hero} really became a {!trade}.',
      'Many years later, as an old {!trade}, {hero} still liked to tell this story.',
      '"A real {!trade} would have done the same," {hero} thought before {hero.they} fell asleep.',
    ),
  },
  {
    name: 'counted on the way',
    cast: (pick) => ({ number: pick.one(numbers), sights: pick.one(countedSights) }),
    told: step(
      'Every day on {hero.their} way {hero} counted {number} {sights}.',
      'In the street where {hero} lived one could count {number} {sights}.',
    ),
    recalled: step(
      'On the way home {hero} counted again: {!number} {!sights}, as always.',
      'It was already dark, and {hero} could not see one of the {!number} {!sights}.',
      'Then {hero} walked home, and there were still {!number} {!sights}.',
    ),
  },
  {
    name: 'weekday',
    cast: (pick) => ({ day: pick.one(weekdays) }),
    told: step(
      'It was {day}, and {hero} had nothing to do.',
      'On {day} there was no school, and {hero} woke up early.',
    ),
    recalled: step(
      '"{!day} is the best day of the week," {hero} thought in bed.',
      '"If only every day were {!day}!" said {hero}.',
      'And so ended a {!day} that {hero} remembered for a long time.',
    ),
  },
  {
    name: 'clothes',
    cast: (pick) => ({ cloth: pick.coloured(pick.one(clothes).text) }),
    told: step(
      '{hero} always wore {cloth.a}, [even in summer|wherever {hero.they} went].',
      'You could always tell {hero} by {hero.their} {cloth}.',
      '{hero} had {cloth.a} that [was too big|grandmother had made].',
    ),
    recalled: step(
      'At home {hero} hung {hero.their} {!cloth} on the hook and [sighed|was content].',
      'In the evening {hero} was so tired that {hero.they} fell asleep in {hero.their} {!cloth}.',
      'That night {hero.their} {!cloth} hung on a chair beside the bed.',
    ),
  },
];

export const lastLines: Step = step(
  'It had been a [good|long|wonderful] day.',
  'And {hero} slept better than ever.',
  'Nobody in the house was happier than {hero} that night.',
  'The moon shone, and all was well.',
  'Then {hero} [laughed|smiled] and put out the light.',
  '{hero} was proud, and with good reason.',
  'After that, {hero} slept until noon.',
  'What a day it had been!',
  '"Tomorrow is another day," said {hero} and yawned.',
  'And if you ask {hero}, {hero.they} will tell you the same.',
);
