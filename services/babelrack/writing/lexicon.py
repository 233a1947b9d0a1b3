"""What is said where an entity is written in digits and signs: the words of each language, in lower case.

English is understood in every language, because digits, `at` and `dot` are said in English in many of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """A language's words, separated by spaces; alternatives with a space in them have `_` for it.

    `digits` are ten groups from zero to nine, the spellings of one digit joined by `/`. The `…_about` words are
    said before the entity that they announce.
    """

    digits: str = ""
    plus: str = ""
    at: str = ""
    dot: str = ""
    months: str = ""
    phone_about: str = ""
    account_about: str = ""
    card_about: str = ""
    code_about: str = ""
    expiry_about: str = ""


_ENGLISH = Lexicon(
    digits="zero/oh/o one two three four five six seven eight nine",
    plus="plus",
    at="at at_the_rate at_the_rate_of",
    dot="dot",
    months="january february march april may june july august september october november december",
    phone_about="phone telephone mobile cell whatsapp my_number your_number his_number her_number call dial ring",
    account_about="account a/c acct iban",
    card_about="card visa mastercard amex",
    code_about="cvv cvc cvv2 cvc2 security_code card_code",
    expiry_about="expiry expires expire expiring expiration exp valid_thru valid_through valid_until good_through",
)
_OTHERS = {
    "ar": Lexicon(
        digits="صفر واحد اثنين/اثنان ثلاثة أربعة/اربعة خمسة ستة سبعة ثمانية تسعة",
        phone_about="هاتف الهاتف رقم رقمي جوال",
        account_about="حساب الحساب",
        card_about="بطاقة البطاقة",
    ),
    "bn": Lexicon(
        digits="শূন্য/জিরো এক দুই তিন চার পাঁচ ছয় সাত আট নয়",
        phone_about="ফোন মোবাইল নম্বর নাম্বার",
        account_about="অ্যাকাউন্ট হিসাব",
        card_about="কার্ড",
    ),
    "da": Lexicon(
        plus="plus",
        at="snabel-a snabela",
        dot="punktum",
        months="januar februar marts april maj juni juli august september oktober november december",
        phone_about="telefon telefonnummer mobil nummer",
        account_about="konto kontonummer",
        card_about="kort kortnummer",
        code_about="sikkerhedskode kontrolcifre",
        expiry_about="udløber udløbsdato",
    ),
    "de": Lexicon(
        plus="plus",
        at="ät klammeraffe",
        dot="punkt",
        months="januar februar märz april mai juni juli august september oktober november dezember",
        phone_about="telefon telefonnummer handy handynummer nummer mobil mobilnummer",
        account_about="konto kontonummer",
        card_about="karte kartennummer kreditkarte kreditkartennummer",
        code_about="prüfnummer prüfziffer sicherheitscode kartenprüfnummer",
        expiry_about="ablaufdatum verfallsdatum gültig_bis läuft_ab",
    ),
    "es": Lexicon(
        plus="más mas",
        at="arroba",
        dot="punto",
        months="enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        phone_about="teléfono móvil celular número",
        account_about="cuenta",
        card_about="tarjeta",
        code_about="código_de_seguridad",
        expiry_about="caduca caducidad vence vencimiento expira",
    ),
    "fr": Lexicon(
        plus="plus",
        at="arobase arrobase",
        dot="point",
        months="janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        phone_about="téléphone portable mobile numéro",
        account_about="compte",
        card_about="carte",
        code_about="cryptogramme code_de_sécurité",
        expiry_about="expire expiration validité",
    ),
    "gu": Lexicon(
        digits="શૂન્ય/ઝીરો એક બે ત્રણ ચાર પાંચ છ સાત આઠ નવ",
        phone_about="ફોન મોબાઇલ નંબર",
        account_about="ખાતા ખાતું",
        card_about="કાર્ડ",
    ),
    "hi": Lexicon(
        digits="शून्य/ज़ीरो/जीरो/ज़ीरो एक/वन दो/टू तीन/थ्री चार/फोर/फ़ोर पाँच/पांच/फाइव छह/छः/छे/छ/सिक्स सात/सेवन आठ/एट नौ/नाइन",
        plus="प्लस",
        at="एट एट_द_रेट एट_दी_रेट ऐट",
        dot="डॉट डाट",
        phone_about="फोन फ़ोन मोबाइल नंबर नम्बर",
        account_about="खाता खाते अकाउंट",
        card_about="कार्ड",
        code_about="सीवीवी",
        expiry_about="एक्सपायरी",
    ),
    "id": Lexicon(
        digits="nol/kosong satu dua tiga empat lima enam tujuh delapan sembilan",
        dot="titik",
        phone_about="telepon ponsel hp nomor",
        account_about="rekening",
        card_about="kartu",
    ),
    "it": Lexicon(
        plus="più",
        at="chiocciola",
        dot="punto",
        months="gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        phone_about="telefono cellulare numero",
        account_about="conto",
        card_about="carta",
        code_about="codice_di_sicurezza",
        expiry_about="scade scadenza",
    ),
    "ja": Lexicon(
        digits="〇/零/ゼロ 一/いち 二 三 四 五 六 七 八 九",
        phone_about="電話 携帯 番号",
        account_about="口座",
        card_about="カード",
    ),
    "kn": Lexicon(
        digits="ಸೊನ್ನೆ/ಶೂನ್ಯ ಒಂದು ಎರಡು ಮೂರು ನಾಲ್ಕು ಐದು ಆರು ಏಳು ಎಂಟು ಒಂಬತ್ತು",
        phone_about="ಫೋನ್ ಮೊಬೈಲ್ ನಂಬರ್",
        account_about="ಖಾತೆ",
        card_about="ಕಾರ್ಡ್",
    ),
    "ml": Lexicon(
        digits="പൂജ്യം ഒന്ന് രണ്ട് മൂന്ന് നാല് അഞ്ച് ആറ് ഏഴ് എട്ട് ഒമ്പത്/ഒൻപത്",
        phone_about="ഫോൺ മൊബൈൽ നമ്പർ",
        account_about="അക്കൗണ്ട്",
        card_about="കാർഡ്",
    ),
    "mr": Lexicon(
        digits="शून्य/झिरो एक दोन तीन चार पाच सहा सात आठ नऊ",
        plus="प्लस",
        at="ॲट",
        dot="डॉट",
        phone_about="फोन मोबाईल नंबर",
        account_about="खाते खातं",
        card_about="कार्ड",
    ),
    "ms": Lexicon(
        digits="sifar/kosong satu dua tiga empat lima enam tujuh lapan sembilan",
        dot="titik",
        phone_about="telefon nombor",
        account_about="akaun",
        card_about="kad",
    ),
    "nl": Lexicon(
        plus="plus",
        at="apenstaartje",
        dot="punt",
        months="januari februari maart april mei juni juli augustus september oktober november december",
        phone_about="telefoon telefoonnummer mobiel nummer",
        account_about="rekening rekeningnummer",
        card_about="kaart creditcard kaartnummer",
        code_about="beveiligingscode",
        expiry_about="vervaldatum verloopt geldig_tot",
    ),
    "pa": Lexicon(
        digits="ਸਿਫ਼ਰ/ਸਿਫਰ/ਜ਼ੀਰੋ ਇੱਕ/ਇਕ ਦੋ ਤਿੰਨ ਚਾਰ ਪੰਜ ਛੇ ਸੱਤ ਅੱਠ ਨੌਂ/ਨੌ",
        phone_about="ਫੋਨ ਮੋਬਾਈਲ ਨੰਬਰ",
        account_about="ਖਾਤਾ",
        card_about="ਕਾਰਡ",
    ),
    "pt": Lexicon(
        digits="zero um/uma dois/duas três quatro cinco seis/meia sete oito nove",
        plus="mais",
        at="arroba",
        dot="ponto",
        months="janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
        phone_about="telefone telemóvel celular número",
        account_about="conta",
        card_about="cartão",
        code_about="código_de_segurança",
        expiry_about="validade expira vence",
    ),
    "ru": Lexicon(
        digits="ноль/нуль один/одна два/две три четыре пять шесть семь восемь девять",
        plus="плюс",
        at="собака",
        dot="точка",
        phone_about="телефон телефона номер",
        account_about="счёт счет счёта счета",
        card_about="карта карты",
    ),
    "ta": Lexicon(
        digits="பூஜ்ஜியம்/பூஜ்யம்/சுழியம் ஒன்று இரண்டு மூன்று நான்கு ஐந்து ஆறு ஏழு எட்டு ஒன்பது",
        phone_about="போன் மொபைல் எண்",
        account_about="கணக்கு",
        card_about="கார்டு",
    ),
    "te": Lexicon(
        digits="సున్నా/జీరో ఒకటి రెండు మూడు నాలుగు ఐదు ఆరు ఏడు ఎనిమిది తొమ్మిది",
        phone_about="ఫోన్ మొబైల్ నంబర్",
        account_about="ఖాతా",
        card_about="కార్డు కార్డ్",
    ),
    "ur": Lexicon(
        digits="صفر/زیرو ایک دو تین چار پانچ چھ/چھے سات آٹھ نو",
        phone_about="فون موبائل نمبر",
        account_about="اکاؤنٹ کھاتہ",
        card_about="کارڈ",
    ),
    "zh": Lexicon(
        digits="零/〇 一/幺 二/两 三 四 五 六 七 八 九",
        phone_about="电话 手机 号码 電話 手機 號碼",
        account_about="账户 账号 帳戶 帳號",
        card_about="卡号 信用卡 银行卡",
    ),
}
# Scripts that put no spaces between words.
UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "km", "my"})
_SAME = {"yue": "zh"}


@dataclass(frozen=True)
class Words:
    """A language's lexicon and English's, ready to be looked for. A pattern that has no words matches nothing."""

    digits: dict[str, str]
    digit: re.Pattern[str]
    plus: frozenset[str]
    at: str
    dot: str
    email: re.Pattern[str]
    links: frozenset[str]
    months: frozenset[str]
    phone_about: re.Pattern[str]
    account_about: re.Pattern[str]
    card_about: re.Pattern[str]
    code_about: re.Pattern[str]
    expiry_about: re.Pattern[str]


# What else is said in e-mail addresses, in all languages that were looked at.
_SIGNS_SAID = ("underscore", "dash", "hyphen", "minus")

# A word's ends: `\b` would end a word of an Indic script before its vowel signs, which `\w` doesn't hold.
_MARKS_TOO = r"\w\u0300-\u036f\u0900-\u0dff"
START, END = rf"(?<![{_MARKS_TOO}])", rf"(?![{_MARKS_TOO}])"


@lru_cache(maxsize=128)
def words_of(language: str) -> Words:
    """The words that `language` and English have for what entities are made of; English's alone for one not known."""
    own = _OTHERS.get(_SAME.get(language, language), Lexicon())
    start, end = ("", "") if language in UNSPACED else (START, END)

    def said(name: str) -> list[str]:
        return [word.replace("_", " ") for lexicon in (own, _ENGLISH) for word in getattr(lexicon, name).split()]

    def alternatives(words: list[str]) -> str:
        # The longest first, or `at` would be found in `at the rate`.
        longest_first = sorted(dict.fromkeys(words), key=len, reverse=True)
        return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in longest_first)

    def pattern(words: list[str]) -> re.Pattern[str]:
        ascii_words = [word for word in words if word.isascii()]
        others = [word for word in words if not word.isascii()]
        # Latin words have ends in every script: `one` is not in `iPhone`.
        either = [rf"(?<![A-Za-z])(?:{alternatives(ascii_words)})(?![A-Za-z])"]
        if others:
            either.append(alternatives(others))
        return re.compile(rf"{start}(?:{'|'.join(either)}){end}", re.IGNORECASE)

    digits: dict[str, str] = {}
    for lexicon in (_ENGLISH, own):
        for value, spellings in enumerate(lexicon.digits.split()):
            digits |= dict.fromkeys(spellings.split("/"), str(value))
    at, dot = said("at"), said("dot")
    return Words(
        digits=digits,
        digit=pattern(list(digits)),
        plus=frozenset(said("plus")),
        at=alternatives(at),
        dot=alternatives(dot),
        email=_email(alternatives(at), alternatives(dot), spaced=language not in UNSPACED),
        links=frozenset(part for word in (*at, *dot, *said("plus"), *_SIGNS_SAID) for part in word.split()),
        months=frozenset(said("months")),
        phone_about=pattern(said("phone_about")),
        account_about=pattern(said("account_about")),
        card_about=pattern(said("card_about")),
        code_about=pattern(said("code_about")),
        expiry_about=pattern(said("expiry_about")),
    )


def _email(at: str, dot: str, *, spaced: bool) -> re.Pattern[str]:
    """`jane.doe@example.com` and `jane dot doe at example dot com`, and what is between the two."""
    letter = rf"[{_MARKS_TOO}\u200c\u200d]" if spaced else "[A-Za-z0-9_]"
    atom = rf"(?:{letter}(?:\s+{letter}(?!{letter})){{1,30}}|(?:{letter}|[+-])(?:{letter}|['’+-])*)"
    dot = rf"(?:\.|\s+(?:{dot})\s+)"
    sign = rf"(?:{dot}|\s+(?:{'|'.join(_SIGNS_SAID)})\s+)"
    label = rf"(?:(?:{letter}|-)+)"
    return re.compile(
        rf"(?<!{letter})(?<!{letter}['’]){atom}(?:{sign}{atom}){{0,8}}(?:\s*@\s*|\s+(?:{at})\s+(?!www\b))"
        rf"{label}(?:{sign}{label}){{0,8}}{dot}(?:(?!\d){letter}){{2,24}}(?!{letter})",
        re.IGNORECASE,
    )


def reads_digit_words(language: str) -> bool:
    """Whether digits that are said in `language` itself are understood, not only numerals and English digits."""
    own = _OTHERS.get(_SAME.get(language, language))
    # text2num reads the numbers of the languages here that have no digits of their own.
    return language == "en" or own is not None
