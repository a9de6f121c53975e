"""Explanations: which patches of which frames each word of a caption came from.

explain         one caption or answer, with its maps: `mvc.explain`
explanation     the result, and how to draw it
relevance       the formulas of the maps
word_gradients  the gradient of every word in one backward pass
drawing         figures and animations
page            a page for the browser

README.md measures how fair the maps are.
"""
