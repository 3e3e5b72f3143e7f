"""Short messages, wanted and unwanted, written for the lesson `spam`: forms with gaps, and what goes into them.

Made up, and easier than real mail; a file of `label<TAB>text` lines takes their place. Forms that are learned from are never
asked about, so nothing is recognised by heart.
"""

from __future__ import annotations

import re

import numpy as np

_WANTED = (
    "are you free {when}? we could {do}",
    "the meeting {when} is in {place}, please bring {thing}",
    "thanks for {thing}, {name} was very happy",
    "i am late, the train from {place} stands still, see you {when}",
    "could you call {name} about {thing} {when}?",
    "happy birthday {name}! shall we {do} {when}?",
    "i left {thing} at {place}, can you look for it?",
    "the doctor says {name} can come {when}, it costs nothing",
    "did you win the game {when}? {name} told me it was close",
    "please pay {name} back for {thing}, {amount} is enough",
    "dinner is at seven, {name} brings {thing}",
    "your account of the trip to {place} made us laugh, send more",
    "we could {do} near {place}, the weather is good {when}",
    "reminder: return {thing} to {name} {when}",
    "no hurry with the money, {amount} {when} is fine",
    "i read your text on {thing}, a few notes follow {when}",
    "the bus to {place} was free of charge {when}, what a surprise",
    "{name} asks whether the offer for {thing} still stands",
    "can we move the call to {when}? i have to {do}",
    "new phone, same number, write me {when}. {name}",
    "see you at {place} {when}, bring {name} and {thing}",
    "can you {do} with {name} {when}? i am at {place}",
    "thanks for the call, i will look for {thing} {when}",
    "{name} and i {do} {when}, are you coming too?",
    "i am at {place} with {name}, we wait for you",
    "shall i bring {thing} {when}, or has {name} got it?",
    "sorry i could not come {when}, {name} was ill",
    "did {name} return {thing}? i need it {when}",
    "what time shall we meet at {place} {when}?",
    "i am home {when}, come and see {thing}",
    "could you look after the cat {when}? we are in {place}",
    "please tell {name} that the meeting is {when}",
    "are you at {place}? {name} has {thing} for you",
    "we had a good time in {place}, thanks for {thing}",
    "{name} was late, so we {do} {when} instead",
    "i will be at the station {when}, call me when you come",
    "i owe you {amount}, do you want it {when}?",
    "the tickets were {amount} each, {name} has paid for us",
    "can you lend me {amount} until {when}?",
    "{thing} costs {amount} at {place}, shall i take it?",
)
_UNWANTED = (
    "congratulations {name}! you have won {amount}, claim your prize {when}",
    "urgent: your account is locked, click the link to confirm {when}",
    "cheap {goods} without prescription, order {when} and save {amount}",
    "free entry: text WIN to 80085 for a chance of {amount}",
    "lose weight {when} with {goods}, guaranteed or money back",
    "final notice: pay {amount} {when} or your number is closed",
    "you were chosen for a loan of {amount}, no checks, reply YES",
    "hot deal on {goods}: {amount} off, only {when}, click here",
    "dear customer, your parcel waits in {place}, pay {amount} to release it",
    "earn {amount} a week from home, no experience needed, call {when}",
    "claim your free {goods} {when}, limited offer, text STOP to end",
    "investment secret: turn {amount} into a fortune {when}, guaranteed",
    "{name}, a secret admirer sent you a message, call 0900 to hear it",
    "your phone has a virus! install {goods} {when} to be safe",
    "winner! your number was drawn, prize {amount}, reply {when}",
    "refund of {amount} from the tax office, confirm your bank details {when}",
    "unlimited {goods}, first month free, cancel never, click {when}",
    "last chance {name}: the offer of {amount} ends {when}",
    "meet singles in {place} {when}, free registration",
    "confirm your password {when} or lose access to your account",
    "you won! claim {amount} {when}, click the link and reply YES",
    "free {goods} for every customer, text FREE to 80085 {when}",
    "limited offer {when}: {goods} at {amount} off, order now",
    "your account was charged {amount}, click here to cancel {when}",
    "claim your refund of {amount} {when}, reply with your bank details",
    "congratulations, your number won a prize of {amount}, call {when}",
    "urgent {name}: confirm your details {when} or pay {amount}",
    "get {goods} free, no checks, offer ends {when}",
    "cheap loan of {amount} guaranteed, reply {when}",
    "click to claim free {goods}, limited to the first 100 customers",
    "dear customer, you have won {goods}, confirm {when} to claim",
    "text CASH to 80085 and earn {amount} {when}, guaranteed",
    "final offer: {goods} free for a month, click {when}",
    "secret deal for you, {amount} off {goods}, order here {when}",
    "your bank account is closed {when}, confirm your password here",
    "prize draw: your number has won {amount}, reply to claim",
)
_GAPS = {
    "when": ("today", "tomorrow", "tonight", "on friday", "next week", "this evening", "in an hour", "now"),
    "do": ("have lunch", "go for a walk", "see a film", "repair the bicycle", "play chess", "cook together"),
    "place": ("london", "the library", "the station", "paris", "the old school", "the harbour", "room twelve"),
    "thing": (
        "the book",
        "my keys",
        "the tickets",
        "a cake",
        "the photos",
        "the guitar",
        "the first chapter",
        "coffee",
    ),
    "name": ("anna", "tom", "maria", "ben", "grandma", "lee", "the neighbour", "sarah"),
    "amount": ("20 pounds", "500 dollars", "1000 euros", "5 pounds", "50 dollars", "90 euros"),
    "goods": ("pills", "ringtones", "watches", "a streaming pass", "software", "miracle tea"),
}
WANTED, UNWANTED = "ham", "spam"


def messages(count: int, random: np.random.Generator) -> tuple[list[str], list[str], list[str], list[str]]:
    """Messages to learn from, and others of forms that those do not have.

    Args:
        count: messages to learn from; a third as many are held out.

    Returns:
        texts, labels, held-out texts, held-out labels.
    """
    learned: tuple[list[str], list[str]] = ([], [])
    held_out: tuple[list[str], list[str]] = ([], [])
    for label, forms in ((WANTED, _WANTED), (UNWANTED, _UNWANTED)):
        order = random.permutation(len(forms))
        cut = len(forms) * 3 // 4
        for places, amount, (texts, labels) in (
            (order[:cut], count // 2, learned),
            (order[cut:], count // 6, held_out),
        ):
            for number in range(amount):
                texts.append(_filled(forms[places[number % len(places)]], random))
                labels.append(label)
    return *learned, *held_out


def _filled(form: str, random: np.random.Generator) -> str:
    return re.sub(r"\{(\w+)\}", lambda gap: str(random.choice(_GAPS[gap[1]])), form)
