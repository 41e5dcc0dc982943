"""The predictors any model must beat: arithmetic on the context, and ridge regressions."""

from lvm_pipeline.measures.arithmetic import ArticleMix, fit_article_mix, fit_context_mix, fit_decay

__all__ = ["ArticleMix", "fit_article_mix", "fit_context_mix", "fit_decay"]
