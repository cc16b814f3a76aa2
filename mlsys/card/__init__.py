"""Model cards: one page about a version, for those who decide whether to rely on it."""

from mlsys.card.model_card import Card, model_card, stored_card

__all__ = ["Card", "model_card", "stored_card"]
