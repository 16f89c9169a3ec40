"""Holds the embedded zoo of glyphs: three pretrained vision transformers, and families of experts tuned from them."""
